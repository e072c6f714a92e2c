"""The ledger of a run: what lies in the store of it, as a census of its samples and one entry a
stage.

Read-only, and content with whatever is there: a stage that never ran, or files that are damaged,
leave gaps that the reader sees. Only shards with their marker count. It is read a group of the
plan's rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel

from infra.store import (
    Manifest,
    MissingError,
    Store,
    StoreError,
    check_name,
    read_marker,
    read_version,
)
from infra.store.groups import GroupedTable
from infra.store.tables import as_frame
from models.masks import SeedRule
from tasks.plan.table import COLUMNS
from tasks.report.counts import Census
from tasks.report.pictures import Colour, default_colour
from tasks.schemas import Evaluated, Shown, Training

__all__ = ["STAGES", "Ledger", "Stage", "read_ledger"]

STAGES = ("synthesize", "refine", "compose", "select")
_PLANNED = {name: kind for name, kind in COLUMNS.items() if name != "sources"}
_READERS = 8  # files asked for at once; they are small, and a bucket answers in its own time
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Stage:
    """What is finished of a stage: shards, their samples and working time; and the tables of it
    that are damaged.

    Working time is in seconds, added up over shards; workers side by side count each.
    """

    shards: int
    rows: int
    seconds: float
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """Everything known of a run.

    Samples of the census have the plan's columns, `first` (the first class, "" for none),
    `image_at` and `label_at` (path of the shard that holds it; missing: no label), `confidence`,
    `consistency`, `keep` (True, False or missing), `reason` and `score`. `colours`, `ids` and
    `rules` (of its seeds) are by class. `evaluation` and `training` are None before those ran,
    `manifest` before the version is published.
    """

    run: str
    identity: str
    settings: Mapping[str, Any]
    colours: Mapping[str, Colour]
    ids: Mapping[str, int]
    rules: Mapping[str, SeedRule]
    stages: Mapping[str, Stage]
    census: Census
    evaluation: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    manifest: Manifest | None

    @property
    def version(self) -> str:
        """Name under which the run's dataset is, or will be, published; empty if the run's identity
        is not known.
        """
        return f"{self.run}-{self.identity[:8]}" if self.identity else ""

    @property
    def damaged(self) -> tuple[str, ...]:
        """Files that could not be read."""
        return tuple(path for stage in self.stages.values() for path in stage.damaged)


def read_ledger(store: Store, run: str) -> Ledger:
    """Gather what the store holds of `run`. Raises `MissingError` if that is nothing at all."""
    folder = f"runs/{check_name('run', run)}"
    if not store.list(folder):
        there = ", ".join(store.list("runs")) or "none"
        raise MissingError(f"no run {run!r} in {store.url}; there are: {there}")
    record = _json(store, f"{folder}/settings.json", Shown) or {}
    listed = {name: _Listed(store, f"{folder}/{name}") for name in STAGES}
    parts = _plan(store, f"{folder}/plan.parquet")
    census = reduce(add, (Census.of(_samples(part, listed)) for part in parts))
    ids, colours, rules = _classes(record, census)
    identity = str(record.get("identity", ""))
    return Ledger(
        run=run,
        identity=identity,
        settings=record.get("settings", {}),
        colours=colours,
        ids=ids,
        rules=rules,
        stages={name: stage.told() for name, stage in listed.items()},
        census=census,
        evaluation=_json(store, f"{folder}/evaluation.json", Evaluated),
        training=_json(store, f"{folder}/training.json", Training),
        manifest=_manifest(store, f"{run}-{identity[:8]}"),
    )


def _json(store: Store, path: str, shape: type[BaseModel]) -> dict[str, Any] | None:
    return store.read_json(path, shape) if store.exists(path) else None


def _plan(store: Store, path: str) -> Iterator[pd.DataFrame]:
    """The plan, a group of whole shards at a time and first of all no row; that alone if there is
    no plan.
    """
    yield pd.DataFrame(columns=[*_PLANNED, "first"])
    if store.exists(path):
        table = GroupedTable(store, path, _PLANNED)
        for group in range(len(table.rows)):
            rows = as_frame(table.read(group))
            yield rows.assign(first=[names[0] if len(names) else "" for names in rows["classes"]])


class _Listed:
    """The shards that are listed of a stage, and what was found in those that were read."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder
        self._unread = {
            f"{folder}/{file[:-5]}" for file in store.list(folder) if file.endswith(".json")
        }
        self._shards, self._rows, self._seconds = 0, 0, 0.0
        self._damaged: list[str] = []

    def table(self, shards: Iterable[int]) -> pd.DataFrame:
        """Rows of the finished ones of these shards as one table (`at`: the shard's path)."""
        paths = [
            path for shard in shards if (path := f"{self._folder}/{shard:05d}") in self._unread
        ]
        finished = self._count(paths)
        tables = dict(
            zip(finished, _at_once(lambda path: _table(self._store, path), finished), strict=True)
        )
        self._damaged += [f"{path}.parquet" for path, table in tables.items() if table is None]
        whole = [table.assign(at=path) for path, table in tables.items() if table is not None]
        return (
            pd.concat(whole, ignore_index=True)
            if whole
            else pd.DataFrame(columns=["id", "at"], dtype=object)
        )

    def told(self) -> Stage:
        """What was found, shards of which the plan knows nothing included."""
        self._count(sorted(self._unread))
        return Stage(self._shards, self._rows, self._seconds, tuple(self._damaged))

    def _count(self, paths: list[str]) -> list[str]:
        """Count those that are finished, and return them."""
        self._unread.difference_update(paths)
        markers = dict(
            zip(paths, _at_once(lambda path: read_marker(self._store, path), paths), strict=True)
        )
        found = {path: marker for path, marker in markers.items() if marker is not None}
        self._shards += len(found)
        self._rows += sum(len(marker.ids) for marker in found.values())
        self._seconds += sum(marker.seconds for marker in found.values())
        return list(found)


def _at_once(read: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, items))


def _table(store: Store, path: str) -> pd.DataFrame | None:
    """A shard's columns, None if they are damaged.

    A store that does not answer is an error still.
    """
    try:
        return store.read_table(f"{path}.parquet")
    except StoreError:
        store.exists(path)  # raises if the store itself is out of reach
        return None


def _manifest(store: Store, version: str) -> Manifest | None:
    return (
        read_version(store, version) if store.exists(f"versions/{version}/manifest.json") else None
    )


def _classes(
    record: Mapping[str, Any], census: Census
) -> tuple[dict[str, int], dict[str, Colour], dict[str, SeedRule]]:
    """Label value, colour and seeds' rule of each class: the recorded vocabulary's, else those of
    the plan by name.
    """
    vocabulary = record.get("sample_settings", {}).get("vocabulary")
    entries = vocabulary.get("classes", []) if isinstance(vocabulary, dict) else []
    entries = entries or [
        {"id": number, "name": name} for number, name in enumerate(sorted(census.classes), 1)
    ]
    ids = {str(entry["name"]): int(entry["id"]) for entry in entries}
    colours = {
        entry["name"]: tuple(entry.get("palette") or default_colour(entry["id"]))
        for entry in entries
    }
    rules = {entry["name"]: SeedRule(**(entry.get("seeds") or {})) for entry in entries}
    return ids, colours, rules


def _samples(plan: pd.DataFrame, listed: Mapping[str, _Listed]) -> pd.DataFrame:
    """Rows of the plan with what the stages tell of them."""
    shards = plan["shard"].unique()
    tables = {name: stage.table(shards) for name, stage in listed.items()}
    images = _columns([tables["synthesize"], tables["compose"]], at="image_at")
    labels = _columns(
        [tables["refine"], tables["compose"]], "confidence", "consistency", at="label_at"
    )
    verdicts = _columns([tables["select"]], "keep", "reason", "score", at="verdict_at")
    samples = plan
    for columns in (images, labels, verdicts):
        samples = samples.merge(columns, on="id", how="left")
    return samples.astype(
        {"keep": object, "image_at": object, "label_at": object, "reason": object}
    )


def _columns(tables: Iterable[pd.DataFrame], *names: str, at: str) -> pd.DataFrame:
    """These columns of the tables, one row an id, and the shard's path under the name `at`."""
    table = pd.concat(
        [table.reindex(columns=["id", "at", *names]) for table in tables], ignore_index=True
    )
    return table.drop_duplicates("id").rename(columns={"at": at})
