"""The command line: `segmint --help` lists its commands.

Heavy modules are imported inside the commands, so that `segmint --help` answers at once. An error
is one message and exit code 2; `--debug` anywhere on the line shows its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmint import console as show

if TYPE_CHECKING:
    from infra.settings import Settings
    from infra.store import Store
    from tasks.gc import Garbage

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
    add_completion=False,
    pretty_exceptions_enable=False,
)
Config = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings, as .toml or .yaml.")
]
Flags = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="FIELD=VALUE",
        help="One setting, such as plan.images=200; may be repeated.",
    ),
]


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


def _settings(config: Path | None, flags: list[str] | None) -> Settings:
    from infra.settings import Settings

    return Settings(_file=config, _flags=flags or ())


def _store(settings: Settings) -> Store:
    from infra.blocks import open_store

    return open_store(settings.store)


@commands.command()
def run(
    config: Config = None,
    flags: Flags = None,
    train: Annotated[
        bool, typer.Option(help="Train and evaluate a segmenter on what was published.")
    ] = True,
) -> None:
    """Run one whole night: plan, generate, label, select, publish, train, evaluate.

    The same command resumes it.
    """
    settings = _settings(config, flags).dated(datetime.now(UTC).date())
    from flows.nightly import nightly
    from flows.retrain import retrain

    with show.progress():
        version = nightly(settings)
        outcome = retrain(settings, version) if train else None
    store = _store(settings)
    same = f" --config {config}" if config else ""
    show.facts(
        [
            ("report", f"{store.url}/runs/{settings.name}/report.html"),
            ("dataset", f"version {version}"),
            ("segmenter", _told(outcome) if outcome else "not trained"),
            (
                "next",
                f"segmint verify {version}{same}  ·  segmint versions{same}  ·  segmint train {version}{same}",
            ),
        ]
    )


@commands.command()
def plan(
    config: Config = None,
    flags: Flags = None,
    examples: Annotated[int, typer.Option(min=0, help="How many prompts to show.")] = 10,
) -> None:
    """Show what a run would make, and its cost, without starting it."""
    settings = _settings(config, flags)
    from segmint.preview import preview

    preview(_store(settings), settings, examples)


@commands.command()
def report(
    run: Annotated[
        str | None, typer.Argument(help="A run; else the one that the settings name.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Write a run's report again, from what the store holds."""
    settings = _settings(config, flags)
    from tasks.report.page import write_report

    show.say(write_report(_store(settings), run or settings.name))


@commands.command()
def verify(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_VERSION", help="What to read and compare with its checksums."
        ),
    ],
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Find any flipped byte, missing chunk or missing shard; exit 1 if there is one."""
    store = _store(_settings(config, flags))
    from infra.store import StoreError, verify_run, verify_version

    known = {
        "version": store.exists(f"versions/{name}/manifest.json"),
        "run": store.exists(f"runs/{name}/plan.parquet"),
    }
    if not any(known.values()):
        there = ", ".join([*store.list("versions"), *store.list("runs")]) or "nothing"
        raise StoreError(f"{store.url} holds no run or version {name!r}; there is: {there}")
    problems = verify_version(store, name) if known["version"] else []
    problems += verify_run(store, name) if known["run"] else []
    for problem in problems:
        show.fail(str(problem))
    if problems:
        raise typer.Exit(1)
    show.say(
        f"{' and '.join(kind for kind in known if known[kind])} {name}: every byte is as written"
    )


@commands.command()
def versions(config: Config = None, flags: Flags = None) -> None:
    """List the published dataset versions, oldest first."""
    store = _store(_settings(config, flags))
    from infra.store import list_versions

    rows = [
        (m.version, m.created[:19].replace("T", " "), m.samples, m.shards)
        for m in list_versions(store)
    ]
    title = (
        f"Versions in {store.url}"
        if rows
        else f"No version is published in {store.url}; `segmint run` makes one"
    )
    show.table(title, ["version", "created (UTC)", "samples", "shards"], rows)


@commands.command()
def train(
    version: Annotated[
        str | None, typer.Argument(help="A published version; else the newest.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Train a segmenter on a published version, evaluate it, and promote it if it is better."""
    settings = _settings(config, flags)
    version = version or _newest(_store(settings))
    from flows.retrain import retrain

    with show.progress():
        outcome = retrain(settings, version)
    show.facts([("segmenter", _told(outcome))])


def _told(outcome: Mapping[str, Any]) -> str:
    """What a training came to: who is champion now, as `promote` returns it, and why."""
    evaluation = outcome["evaluation"]
    measured = f"mIoU {evaluation['miou']:.3f} on {evaluation['set']}"
    return f"{measured}: champion {outcome['checkpoint']} ({outcome['reason']})"


@commands.command()
def evaluate(
    checkpoint: Annotated[
        str | None, typer.Argument(help="A checkpoint; else the champion.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Measure a segmenter on held-out drawn scenes, or on the VOC-layout folder that evaluate.voc
    names.
    """
    settings = _settings(config, flags)
    from tasks.evaluate.evaluate import evaluate as measure
    from tasks.promote.champion import champion_of

    name = checkpoint or champion_of(settings)

    with show.progress():
        found = measure.fn(settings, name)
    iou = [
        (of_class, "-" if value is None else f"{value:.3f}")
        for of_class, value in found["iou"].items()
    ]
    show.table(
        f"{name} on {found['set']}", ["class", "IoU"], [*iou, ("mean", f"{found['miou']:.3f}")]
    )


@commands.command()
def compare(
    second: Annotated[str, typer.Argument(help="A checkpoint.")],
    first: Annotated[str | None, typer.Option(help="Another one; else the champion.")] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Measure two checkpoints on the same pictures and show what differs, class by class."""
    settings = _settings(config, flags)
    from flows.compare import compare as measure_both

    with show.progress():
        rows = measure_both(settings, second, first)
    shown = [
        [row["class"], *(_figure(row[name]) for name in ("first", "second", "difference"))]
        for row in rows
    ]
    show.table(
        f"{first or 'the champion'} and {second}, IoU",
        ["class", "first", "second", "difference"],
        shown,
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@commands.command()
def rollback(
    to: Annotated[
        str | None, typer.Option(help="A checkpoint; else the champion before this one.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Make an earlier champion the champion again; the one that stood does not come back by itself."""
    settings = _settings(config, flags)
    from flows.rollback import rollback as roll_back

    champion = roll_back(settings, to)
    show.facts(
        [("champion", champion["checkpoint"]), ("withdrawn", ", ".join(champion["withdrawn"]))]
    )


@commands.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it; without this, only show.")
    ] = False,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Show what the settings' retention lets go: old versions, working shards of published runs,
    abandoned runs.
    """
    settings = _settings(config, flags)
    from tasks.gc import collect

    found = collect.fn(settings, dry_run=not delete)
    title = "Deleted" if delete else "What --delete would delete"
    show.table(
        title if found else "Nothing to delete",
        ["path", "size", "why"],
        [_described(each) for each in found],
    )


def _described(garbage: Garbage) -> tuple[str, str, str]:
    return garbage.path, show.size(garbage.size), garbage.why


@commands.command()
def pin(
    version: Annotated[str, typer.Argument(help="A published version.")],
    why: Annotated[str, typer.Option(help="For whoever asks later.")] = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Leave it to the retention again.")
    ] = False,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Keep a version for ever, whatever the retention says."""
    store = _store(_settings(config, flags))
    from tasks import gc as collect

    if remove:
        collect.unpin(store, version)
    else:
        collect.pin(store, version, why)
    show.facts([("pinned", ", ".join(collect.pins(store)) or "none")])


def _newest(store: Store) -> str:
    from infra.store import StoreError, list_versions

    published = list_versions(store)
    if not published:
        raise StoreError(f"{store.url} holds no published version; `segmint run` makes one")
    return published[-1].version


@commands.command()
def pretrain(config: Config = None, flags: Flags = None) -> None:
    """Train the embedded generator and the oracle anew on the drawn world; settings are of their
    own.
    """
    from flows.pretrain import pretrain
    from infra.sources import read_flat
    from models.embedded.pretraining import Recipe

    recipe = read_flat(Recipe, config, flags or ())
    with show.progress():
        pipeline, oracle = pretrain(recipe)
    show.facts([("pipeline", pipeline), ("oracle", oracle)])


@commands.command()
def setup(
    slots: Annotated[
        int | None, typer.Option(min=1, help="GPUs of all runs together, for compute.limit.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Make what a Prefect server needs: work pool, limit, block of credentials, automations.

    Again: what is missing.
    """
    settings = _settings(config, flags)
    from infra.fleet import set_up

    show.table(
        "On the Prefect server",
        ["", "what"],
        [(done.how, done.what) for done in set_up(settings, slots)],
    )
    show.console.print(
        "next: prefect --no-prompt deploy --all  ·  prefect worker start --pool segmint"
    )


@commands.command()
def doctor(config: Config = None, flags: Flags = None) -> None:
    """Check versions, devices, store, free space, generator and servers; exit 1 if something is
    wrong.
    """
    settings = _settings(config, flags)
    from infra.doctor import diagnose
    from models.generators import load_pipeline

    def open_generator() -> str:
        generator = settings.generator
        pipeline = load_pipeline(generator.path, device=generator.device, dtype=generator.dtype)
        return f"{generator.path}: {type(pipeline).__name__} opens"

    checks = diagnose(settings, open_generator=open_generator)
    rows = [
        (show.mark(check.ok), check.name, check.detail, "" if check.ok else check.remedy)
        for check in checks
    ]
    show.table("What a run needs", ["", "check", "found", "remedy"], rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
