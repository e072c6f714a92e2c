"""The ledger of a run: what lies in the store of it, gathered into one table of samples and one entry a stage.

Read-only, and content with whatever is there: a stage that never ran, or files that are damaged, leave gaps that the
reader sees. Only shards with their marker count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel

from infra.store import Manifest, Marker, MissingError, Store, StoreError, check_name, read_marker, read_version
from models.masks import SeedRule
from tasks.pictures import Colour, default_colour
from tasks.planned import COLUMNS
from tasks.records import Evaluated, Shown, Training

__all__ = ["STAGES", "Ledger", "Stage", "read_ledger"]

STAGES = ("synthesize", "refine", "compose", "select")
_PLANNED = {name: kind for name, kind in COLUMNS.items() if name != "sources"}
_READERS = 8  # files asked for at once; they are small, and a bucket answers in its own time
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Stage:
    """Finished shards of a stage by path, their rows as one table (`at`: the path), and tables that are damaged."""

    name: str
    shards: Mapping[str, Marker]
    table: pd.DataFrame
    damaged: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Samples of the finished shards."""
        return sum(len(marker.ids) for marker in self.shards.values())

    @property
    def seconds(self) -> float:
        """Working time, added up over shards; workers side by side count each."""
        return sum(marker.seconds for marker in self.shards.values())


@dataclass(frozen=True)
class Ledger:
    """Everything known of a run.

    `samples` has one row a planned sample: the plan's columns, `first` (its first class, "" for none), `image_at` and
    `label_at` (path of the shard that holds it; missing: not made), `confidence`, `consistency`, `keep` (True, False or
    missing), `reason` and `score`. `colours`, `ids` and `rules` (of its seeds) are by class.
    `evaluation` and `training` are None before those ran, `manifest` before the version is published.
    """

    run: str
    identity: str
    settings: Mapping[str, Any]
    colours: Mapping[str, Colour]
    ids: Mapping[str, int]
    rules: Mapping[str, SeedRule]
    stages: Mapping[str, Stage]
    samples: pd.DataFrame
    evaluation: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    manifest: Manifest | None

    @property
    def version(self) -> str:
        """Name under which the run's dataset is, or will be, published; empty if the run's identity is not known."""
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
    plan = _plan(store, f"{folder}/plan.parquet")
    stages = {name: _stage(store, run, name) for name in STAGES}
    ids, colours, rules = _classes(record, plan)
    identity = str(record.get("identity", ""))
    return Ledger(
        run=run,
        identity=identity,
        settings=record.get("settings", {}),
        colours=colours,
        ids=ids,
        rules=rules,
        stages=stages,
        samples=_samples(plan, stages),
        evaluation=_json(store, f"{folder}/evaluation.json", Evaluated),
        training=_json(store, f"{folder}/training.json", Training),
        manifest=_manifest(store, f"{run}-{identity[:8]}"),
    )


def _json(store: Store, path: str, shape: type[BaseModel]) -> dict[str, Any] | None:
    return store.read_json(path, shape) if store.exists(path) else None


def _plan(store: Store, path: str) -> pd.DataFrame:
    plan = store.read_table(path, _PLANNED) if store.exists(path) else pd.DataFrame()
    plan = plan.reindex(columns=list(_PLANNED))
    return plan.assign(first=[names[0] if len(names) else "" for names in plan["classes"]])


def _stage(store: Store, run: str, name: str) -> Stage:
    folder = f"runs/{run}/{name}"
    paths = [f"{folder}/{file[:-5]}" for file in store.list(folder) if file.endswith(".json")]
    found = zip(paths, _at_once(lambda path: read_marker(store, path), paths), strict=True)
    shards = {path: marker for path, marker in found if marker is not None}
    tables = dict(zip(shards, _at_once(lambda path: _table(store, path), shards), strict=True))
    whole = [table.assign(at=path) for path, table in tables.items() if table is not None]
    damaged = tuple(f"{path}.parquet" for path, table in tables.items() if table is None)
    return Stage(
        name, shards, pd.concat(whole, ignore_index=True) if whole else pd.DataFrame({"id": [], "at": []}), damaged
    )


def _at_once(read: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, items))


def _table(store: Store, path: str) -> pd.DataFrame | None:
    """A shard's columns, None if they are damaged. A store that does not answer is an error still."""
    try:
        return store.read_table(f"{path}.parquet")
    except StoreError:
        store.exists(path)  # raises if the store itself is out of reach
        return None


def _manifest(store: Store, version: str) -> Manifest | None:
    return read_version(store, version) if store.exists(f"versions/{version}/manifest.json") else None


def _classes(
    record: Mapping[str, Any], plan: pd.DataFrame
) -> tuple[dict[str, int], dict[str, Colour], dict[str, SeedRule]]:
    """Label value, colour and seeds' rule of each class: the recorded vocabulary's, else those of the plan by name."""
    vocabulary = record.get("sample_settings", {}).get("vocabulary")
    entries = vocabulary.get("classes", []) if isinstance(vocabulary, dict) else []
    names = sorted(plan["classes"].explode().dropna().unique())
    entries = entries or [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    ids = {str(entry["name"]): int(entry["id"]) for entry in entries}
    colours = {entry["name"]: tuple(entry.get("palette") or default_colour(entry["id"])) for entry in entries}
    rules = {entry["name"]: SeedRule(**(entry.get("seeds") or {})) for entry in entries}
    return ids, colours, rules


def _samples(plan: pd.DataFrame, stages: Mapping[str, Stage]) -> pd.DataFrame:
    images = _columns([stages["synthesize"], stages["compose"]], at="image_at")
    labels = _columns([stages["refine"], stages["compose"]], "confidence", "consistency", at="label_at")
    verdicts = _columns([stages["select"]], "keep", "reason", "score", at="verdict_at")
    samples = plan
    for columns in (images, labels, verdicts):
        samples = samples.merge(columns, on="id", how="left")
    return samples.astype({"keep": object, "image_at": object, "label_at": object, "reason": object})


def _columns(stages: Iterable[Stage], *names: str, at: str) -> pd.DataFrame:
    """These columns of the stages' tables, one row an id, and the shard's path under the name `at`."""
    wanted = ["id", "at", *names]
    table = pd.concat([stage.table.reindex(columns=wanted) for stage in stages], ignore_index=True)
    return table.drop_duplicates("id").rename(columns={"at": at})
