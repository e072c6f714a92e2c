"""Runs: every run of a store, with its rows and what it published."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.store import MissingError, Published, Store, check_marker, check_name, list_versions
from infra.store.groups import GroupedTable
from segmint.inventory.faults import Faults
from tasks.run.layout import stage_folder
from tasks.schemas import Shown, origin_of

__all__ = ["RunSummary", "list_runs", "read_settings"]


@dataclass(frozen=True)
class RunSummary:
    """A run; None stands for what is not known yet, or is damaged.

    `created` is when its settings were written, `changed` when its newest file was. `planned` and
    `kept` count rows: planned ones, and those that selection has kept so far. `version` is the
    newest that it published.
    """

    name: str
    identity: str | None
    created: str | None
    changed: str | None
    planned: int | None
    kept: int | None
    version: str | None
    damaged: list[str]


def list_runs(store: Store) -> tuple[list[RunSummary], list[str]]:
    """Return all runs of a store, by name, and what else could not be read."""
    faults = Faults()
    published = _versions_by_run(faults.attempt(list_versions, store) or [], faults)
    with ThreadPoolExecutor(store.place.readers) as pool:
        runs = pool.map(lambda run: _run(store, run, published.get(run)), store.list("runs"))
        return list(runs), faults.found


def _versions_by_run(published: list[Published], faults: Faults) -> dict[str, Published]:
    """Return the newest version of each run."""
    found = {}
    for each in published:
        origin = faults.attempt(origin_of, each)
        if origin:
            found[origin.run] = each
    return found


def _run(store: Store, run: str, version: Published | None) -> RunSummary:
    faults = Faults()
    if not faults.attempt(check_name, "run", run):
        return RunSummary(run, None, None, None, None, None, None, faults.found)
    record = faults.attempt(read_settings, store, run)
    return RunSummary(
        name=run,
        identity=(record or {}).get("identity") or None,
        created=_modified(store, f"runs/{run}/settings.json", faults) if record else None,
        changed=_modified(store, f"runs/{run}", faults),
        planned=faults.attempt(_planned, store, run),
        kept=version.samples if version else _kept_so_far(store, run, faults),
        version=version.version if version else None,
        damaged=faults.found,
    )


def read_settings(store: Store, run: str) -> dict[str, Any]:
    """Return settings.json of a run. Raises `StoreError` if it is missing or damaged."""
    settings: dict[str, Any] = store.read_json(f"runs/{run}/settings.json", Shown)
    return settings


def _planned(store: Store, run: str) -> int | None:
    """Return the number of planned rows, from the plan's footer; None before there is a plan."""
    try:
        return len(GroupedTable(store, f"runs/{run}/plan.parquet", {"row": "int"}))
    except MissingError:
        return None


def _kept_so_far(store: Store, run: str, faults: Faults) -> int | None:
    """Return the number of kept rows in the markers of `select`; None before there is one."""
    folder = stage_folder(run, "select")
    names = faults.attempt(store.list, folder) or []
    paths = [f"{folder}/{name.removesuffix('.json')}" for name in names if name.endswith(".json")]
    with ThreadPoolExecutor(store.place.readers) as pool:
        markers = pool.map(lambda path: faults.attempt(check_marker, store, path), paths)
        counts = [marker.stats.get("kept") for marker in markers if marker]
    return sum(count for count in counts if isinstance(count, int)) if counts else None


def _modified(store: Store, path: str, faults: Faults) -> str | None:
    """Return when the newest file at or below `path` was written."""
    usage = faults.attempt(store.usage, path)
    if usage is None or not usage.modified:
        return None
    return datetime.fromtimestamp(usage.modified, UTC).isoformat(timespec="seconds")
