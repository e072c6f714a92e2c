"""Commands about published datasets: verify, versions, pin, gc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, settings_of, store_of

if TYPE_CHECKING:
    from tasks.gc import Garbage


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
    store = store_of(settings_of(config, flags))
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


def versions(config: Config = None, flags: Flags = None) -> None:
    """List the published dataset versions, oldest first."""
    store = store_of(settings_of(config, flags))
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
    store = store_of(settings_of(config, flags))
    from tasks import gc as collect

    if remove:
        collect.unpin(store, version)
    else:
        collect.pin(store, version, why)
    show.facts([("pinned", ", ".join(collect.pins(store)) or "none")])


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
    settings = settings_of(config, flags)
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
