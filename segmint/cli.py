"""The command line: `segmint --help` lists its commands.

Heavy modules are imported inside the commands, so that `segmint --help` answers at once. An error
is one message and exit code 2; `--debug` anywhere on the line shows its traceback.
"""

from __future__ import annotations

import os
import sys

import typer

from segmint import console as show
from segmint.commands import datasets, run, server, training

__all__ = ["app"]

# Set before the libraries are imported, unless the user has: what a run in-process needs of them,
ENVIRONMENT = {
    # of 20, which a busy machine exceeds
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # a night run talks to nobody
}
# and what would bury our own messages.
QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # it logs tracebacks of errors that are told in a sentence
    "TRANSFORMERS_VERBOSITY": "error",  # it misses torchvision, which nothing here needs
}

commands = typer.Typer(
    name="segmint",
    help="Mints labelled segmentation data: class names in, a published dataset and a trained segmenter out.",
    epilog="Add --debug to any command to see the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS = {  # panel of `--help`: its commands
    "Runs": (run.run, run.plan, run.report),
    "Datasets": (datasets.versions, datasets.verify, datasets.pin, datasets.gc),
    "Segmenters": (training.train, training.evaluate, training.compare, training.rollback),
    "Installation": (server.doctor, server.setup, server.pretrain),
}
for panel, functions in COMMANDS.items():
    for function in functions:
        commands.command(rich_help_panel=panel)(function)


def app(arguments: list[str] | None = None) -> None:
    """Run the command line; always ends in `SystemExit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for name, value in {**ENVIRONMENT, **({} if debug else QUIET)}.items():
        os.environ.setdefault(name, value)
    try:
        commands([word for word in words if word != "--debug"])
    except Exception as error:
        if debug:
            raise
        show.fail(_message(error))
        sys.exit(2)


def _message(error: Exception) -> str:
    """The error's own words; an error that is not ours is named, for it may say little."""
    from infra.credentials import public

    ours = type(error).__module__.partition(".")[0] in (
        "infra",
        "tasks",
        "models",
        "flows",
        "segmint",
    )
    text = str(public(str(error)))
    return (
        text
        if ours and text
        else f"{type(error).__name__}: {text}\nAdd --debug to see where it came from."
    )
