"""Commands that show what a store holds: runs, show, checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmint import console
from segmint.commands.options import Config, Flags, Json, settings_of, store_of

if TYPE_CHECKING:
    from segmint.inventory.checkpoints import CheckpointSummary
    from segmint.inventory.runs import RunSummary
    from segmint.inventory.versions import VersionSummary

__all__ = ["checkpoints", "runs", "show"]

NONE = "-"  # in a table, for what is not known


def runs(config: Config = None, flags: Flags = None, json: Json = False) -> None:
    """List the runs in the store: planned and kept rows, and what they published."""
    store = store_of(settings_of(config, flags))
    from segmint.inventory.runs import list_runs

    found, beside = list_runs(store)
    if json:
        console.as_json({"runs": [asdict(each) for each in found], "damaged": beside})
        return
    title = f"Runs in {store.url}"
    if not found:
        title = f"No run in {store.url}; `segmint run` starts one"
    columns = ["run", "identity", "created (UTC)", "changed (UTC)", "planned", "kept", "version"]
    console.table(title, columns, [_run_row(each) for each in found])
    _report_damage(beside, *(each.damaged for each in found))


def _run_row(run: RunSummary) -> list[object]:
    version = run.version or ("damaged" if run.damaged else NONE)
    return [
        run.name,
        (run.identity or NONE)[:8],
        _minutes(run.created),
        _minutes(run.changed),
        _or_none(run.planned),
        _or_none(run.kept),
        version,
    ]


def checkpoints(config: Config = None, flags: Flags = None, json: Json = False) -> None:
    """List the trained segmenters in the store, with their mIoU on each set; * is the champion."""
    store = store_of(settings_of(config, flags))
    from segmint.inventory.checkpoints import list_checkpoints

    found, beside = list_checkpoints(store)
    if json:
        console.as_json({"checkpoints": [asdict(each) for each in found], "damaged": beside})
        return
    title = f"Checkpoints in {store.url}"
    if not found:
        title = f"No checkpoint in {store.url}; `segmint train` makes one"
    columns = ["champion", "checkpoint", "version", "model", "state", "mIoU", "measured on"]
    console.table(title, columns, [row for each in found for row in _checkpoint_rows(each)])
    _report_damage(beside, *(each.damaged for each in found))


def _checkpoint_rows(checkpoint: CheckpointSummary) -> list[list[object]]:
    """Return one row per evaluation, or one without mIoU."""
    start: list[object] = [
        "*" if checkpoint.champion else "",
        checkpoint.name,
        _trained_on(checkpoint),
        checkpoint.model or NONE,
        checkpoint.state,
    ]
    evaluations = checkpoint.evaluations
    measured = [[f"{each['miou']:.3f}", each["set"]] for each in evaluations] or [[NONE, NONE]]
    return [[*start, *each] for each in measured]


def _trained_on(checkpoint: CheckpointSummary) -> str:
    """Return the version that a training was given, and how many others came along."""
    others = len(checkpoint.versions) - 1
    return f"{checkpoint.version or NONE}{f' and {others} more' if others > 0 else ''}"


def show(
    version: Annotated[str, typer.Argument(help="A published version.")],
    config: Config = None,
    flags: Flags = None,
    json: Json = False,
) -> None:
    """Show a published version: size, images per class, and what it was made from."""
    store = store_of(settings_of(config, flags))
    from segmint.inventory.versions import summarise_version

    found = summarise_version(store, version)
    if json:
        console.as_json(asdict(found))
        return
    console.facts(_facts(found))
    rows = [[each["id"], each["name"], each["images"]] for each in found.classes]
    console.table("Images that show a class", ["id", "class", "images"], rows)
    _report_damage(found.damaged)


def _facts(found: VersionSummary) -> list[tuple[str, Any]]:
    """Return names and values of everything but the classes."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items()) or NONE
    facts: list[tuple[str, Any]] = [
        ("version", f"{found.version}, number {found.number}"),
        ("created", f"{_minutes(found.created)} UTC"),
        ("samples", f"{found.samples} in {found.shards} shards: {kinds}"),
        ("size", f"{console.size(found.bytes)} ({found.bytes} bytes)"),
        ("digest", found.digest),
    ]
    lineage = {name: value for name, value in found.lineage.items() if value not in (None, [])}
    return [*facts, *((name.replace("_", " "), value) for name, value in lineage.items())]


def _minutes(date: str | None) -> str:
    """Return a date as "2026-11-29 12:30"."""
    return date[:16].replace("T", " ") if date else NONE


def _or_none(count: int | None) -> object:
    return NONE if count is None else count


def _report_damage(*faults: Sequence[str]) -> None:
    """Print what could not be read to standard error, so that the list itself stays clean."""
    for fault in itertools.chain.from_iterable(faults):
        console.fail(f"damaged: {fault}")
