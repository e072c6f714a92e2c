"""The command line: `segmint --help` lists its commands.

Heavy modules are imported inside the commands, so that `segmint --help` answers at once. An error
is one message and exit code 2; `--debug` anywhere on the line shows its traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from segmint import console as show
from segmint.commands import datasets, inspect, run, server, training

__all__ = ["app"]

# Set before Prefect and the other libraries are imported, unless the user has set them.
ENVIRONMENT = {
    # Prefect's default is 20, which a busy machine exceeds
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    # neither a temporary server nor the client sends usage data, or prints a notice about it
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
# Without these, the libraries' logs would bury our own messages.
QUIET = {
    # Prefect logs tracebacks of errors that we report ourselves, and its server those of its stop.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",  # it misses torchvision, which nothing here needs
    "DASK_LOGGING__DISTRIBUTED": "critical",  # it logs the start and end of every worker
}
OWN_PACKAGES = ("infra", "tasks", "models", "flows", "segmint")  # whose errors say what to do
EPILOG = """\
Exit codes:

0    done

1    verify or doctor found something wrong

2    an error, described in one message

130  stopped by Ctrl-C

143  stopped by SIGTERM

Add --debug to any command to see the traceback of an error.
"""

commands = typer.Typer(
    name="segmint",
    help="Make labelled segmentation data: class names in, a dataset and a segmenter out.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS = {  # panel of `--help`: its commands
    "Runs": (run.run, run.plan, run.report, inspect.runs),
    "Datasets": (
        datasets.versions,
        inspect.show,
        datasets.verify,
        datasets.pin,
        datasets.gc,
    ),
    "Segmenters": (
        training.train,
        training.evaluate,
        training.compare,
        training.rollback,
        inspect.checkpoints,
    ),
    "Installation": (server.doctor, server.setup, server.pretrain),
}
for panel, functions in COMMANDS.items():
    for function in functions:
        commands.command(rich_help_panel=panel)(function)


def _print_version(wanted: bool) -> None:
    if wanted:
        from segmint import __version__

        show.say(f"segmint {__version__}")
        raise typer.Exit


@commands.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Take the options that stand before the command."""


def app(arguments: list[str] | None = None) -> None:
    """Run the command line; always ends in `SystemExit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for name, value in {**ENVIRONMENT, **({} if debug else QUIET)}.items():
        os.environ.setdefault(name, value)
    try:
        commands([word for word in words if word != "--debug"], prog_name="segmint")
    except Exception as error:
        show.fail(_traceback(error) if debug else _message(error))
        sys.exit(2)


def _traceback(error: Exception) -> str:
    from infra.credentials import scrub

    return scrub("".join(traceback.format_exception(error)))


def _message(error: Exception) -> str:
    """Return the error's own message; an error of another library is named too."""
    from infra.credentials import scrub

    text = scrub(str(error))
    if text and type(error).__module__.partition(".")[0] in OWN_PACKAGES:
        return text
    return f"{type(error).__name__}: {text}\nAdd --debug to see where it came from."
