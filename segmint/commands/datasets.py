"""Commands about published datasets: versions, verify, pin, gc."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, Json, settings_of, store_of

__all__ = ["gc", "pin", "verify", "versions"]


def versions(config: Config = None, flags: Flags = None, json: Json = False) -> None:
    """List the published dataset versions, oldest first."""
    store = store_of(settings_of(config, flags))
    from infra.store import list_versions

    published = list_versions(store)
    if json:
        fields = ("version", "created", "samples", "shards")
        show.as_json([{name: getattr(each, name) for name in fields} for each in published])
        return
    title = f"Versions in {store.url}"
    if not published:
        title = f"No version is published in {store.url}; `segmint run` makes one"
    rows = [
        (each.version, each.created[:19].replace("T", " "), each.samples, each.shards)
        for each in published
    ]
    show.table(title, ["version", "created (UTC)", "samples", "shards"], rows)


def verify(
    name: Annotated[
        str, typer.Argument(metavar="RUN_OR_VERSION", help="What to compare with its checksums.")
    ],
    config: Config = None,
    flags: Flags = None,
    json: Json = False,
) -> None:
    """Compare every byte of a run or version with its checksums; exit 1 if one differs."""
    store = store_of(settings_of(config, flags))
    from infra.store import StoreError, verify_version
    from tasks.run.verify import verify_stored_run

    kinds = {
        "version": store.exists(f"versions/{name}/manifest.json"),
        "run": store.exists(f"runs/{name}/plan.parquet"),
    }
    known = [kind for kind, exists in kinds.items() if exists]
    if not known:
        found = ", ".join([*store.list("versions"), *store.list("runs")]) or "nothing"
        raise StoreError(f"{store.url} has no run or version {name!r}; it has: {found}")
    problems = verify_version(store, name) if kinds["version"] else []
    problems += verify_stored_run(store, name) if kinds["run"] else []
    if json:
        found_problems = [asdict(problem) for problem in problems]
        show.as_json({"name": name, "kinds": known, "problems": found_problems})
    for problem in problems:
        show.fail(str(problem))
    if problems:
        raise typer.Exit(1)
    if not json:
        show.say(f"{' and '.join(known)} {name}: every byte equals its checksum")


def pin(
    version: Annotated[str, typer.Argument(help="A published version.")],
    why: Annotated[str, typer.Option(help="A reason, stored with the pin.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the pin.")] = False,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Keep a version for ever, whatever the retention settings say."""
    store = store_of(settings_of(config, flags))
    from tasks.gc import pins

    if remove:
        pins.unpin(store, version)
    else:
        pins.pin(store, version, why)
    show.facts([("pinned", ", ".join(pins.pins(store)) or "none")])


def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it; without this, only list it.")
    ] = False,
    config: Config = None,
    flags: Flags = None,
    json: Json = False,
) -> None:
    """List, or delete, what the retention settings no longer keep.

    That is: old versions, working shards of published runs, and abandoned runs. What segmint did
    not write stays, and is listed too.
    """
    settings = settings_of(config, flags)
    from tasks.gc.collect import collect

    found = collect.fn(settings, dry_run=not delete)
    if json:
        garbage, left = ([each._asdict() for each in part] for part in found)
        show.as_json({"deleted": delete, "found": garbage, "left": left})
        return
    title = "Deleted" if delete else "What --delete would delete"
    rows = [(each.path, show.size(each.size), each.why) for each in found.garbage]
    show.table(title if rows else "Nothing to delete", ["path", "size", "why"], rows)
    if found.left:
        show.table("What stays, although it is old or unknown", ["path", "why"], found.left)
