"""Stored run: what the store holds of a run: counts of its samples, and one entry per stage.

Reading changes nothing and accepts any state: a stage that never ran and damaged files leave gaps
that the report names. Only shards with a marker count. The plan is read one group of rows at a
time, so memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import pandas as pd
from pydantic import BaseModel

from infra.settings import FLOW
from infra.store import (
    Manifest,
    MissingError,
    Store,
    check_name,
    read_version,
)
from infra.store.groups import GroupedTable
from infra.store.tables import as_frame
from models.masks import SeedRule
from tasks.budgets import Steering
from tasks.plan.table import COLUMNS
from tasks.report.counts import RunCounts
from tasks.report.images import Colour, default_colour
from tasks.report.stored_stage import StageReader, StoredStage, read_folds
from tasks.run.layout import STAGES, version_name
from tasks.schemas import Evaluated, Shown, Training

__all__ = ["StoredRun", "read_stored_run"]

_PLANNED = {name: kind for name, kind in COLUMNS.items() if name != "sources"}
_SHOWN = ("synthesize", "refine", "compose", "select")  # stages whose columns the report shows


@dataclass(frozen=True)
class StoredRun:
    """Everything that the store holds of a run.

    `stages` are in order: those with shards in the run's folder, and noise learning's networks.
    Samples picked in `counts` have the plan's columns, `first` (the first class, "" for none),
    `image_at` and `label_at` (path of the shard that holds it; missing without a label),
    `confidence`, `consistency`, `keep` (True, False or missing), `reason` and `score`. `colours`,
    `ids` and `rules` (of seeds) are by class name. `evaluation`, `budget` (of the next run) and
    `training` are None before they ran, `manifest` is None before the version is published.
    """

    run: str
    identity: str
    settings: Mapping[str, Any]
    colours: Mapping[str, Colour]
    ids: Mapping[str, int]
    rules: Mapping[str, SeedRule]
    stages: Mapping[str, StoredStage]
    counts: RunCounts
    evaluation: Mapping[str, Any] | None
    budget: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    manifest: Manifest | None

    @property
    def version(self) -> str:
        """Name of the version that the run publishes; empty if its identity is not recorded."""
        return version_name(self.run, self.identity) if self.identity else ""

    @property
    def found(self) -> str:
        """What the generator found in its images, in words: attention, or the mask it read back."""
        of_maps = str(self.settings.get("generator", {}).get("path")).startswith(FLOW)
        return "the mask that was read back" if of_maps else "attention of the class words"

    @property
    def damaged(self) -> tuple[str, ...]:
        """Files that could not be read."""
        return tuple(path for stage in self.stages.values() for path in stage.damaged)


def read_stored_run(store: Store, run: str) -> StoredRun:
    """Return what the store holds of `run`. Raises `MissingError` if that is nothing."""
    folder = f"runs/{check_name('run', run)}"
    if not store.list(folder):
        existing = ", ".join(store.list("runs")) or "none"
        raise MissingError(f"no run {run!r} in {store.url}; there are: {existing}")
    record = _json(store, f"{folder}/settings.json", Shown) or {}
    settings = record.get("settings", {})
    readers = _readers(store, run, settings)
    groups = _plan_groups(store, f"{folder}/plan.parquet")
    counts = reduce(add, (RunCounts.of(_samples(rows, readers)) for rows in groups))
    ids, colours, rules = _classes(record, counts)
    identity = str(record.get("identity", ""))
    stages = {name: reader.summary(counts) for name, reader in readers.items()}
    if folds := read_folds(store, version_name(run, identity), settings):
        stages["learn-fold"] = folds
    return StoredRun(
        run=run,
        identity=identity,
        settings=settings,
        colours=colours,
        ids=ids,
        rules=rules,
        stages={stage.name: stages[stage.name] for stage in STAGES if stage.name in stages},
        counts=counts,
        evaluation=_json(store, f"{folder}/evaluation.json", Evaluated),
        budget=_json(store, f"{folder}/budget.json", Steering),
        training=_json(store, f"{folder}/training.json", Training),
        manifest=_manifest(store, version_name(run, identity)),
    )


def _readers(store: Store, run: str, settings: Mapping[str, Any]) -> dict[str, StageReader]:
    """Return a reader for each stage that the settings switch on or that has finished shards."""
    stages = [stage for stage in STAGES if stage.in_run]
    readers = {stage.name: StageReader(store, run, stage) for stage in stages}
    return {
        stage.name: readers[stage.name]
        for stage in stages
        if stage.enabled(settings) or readers[stage.name].found
    }


def _json(store: Store, path: str, shape: type[BaseModel]) -> dict[str, Any] | None:
    return store.read_json(path, shape) if store.exists(path) else None


def _manifest(store: Store, version: str) -> Manifest | None:
    path = f"versions/{version}/manifest.json"
    return read_version(store, version) if store.exists(path) else None


def _plan_groups(store: Store, path: str) -> Iterator[pd.DataFrame]:
    """Yield an empty table, then the plan, one group of whole shards at a time."""
    yield pd.DataFrame(columns=[*_PLANNED, "first"])
    if store.exists(path):
        table = GroupedTable(store, path, _PLANNED)
        for group in range(len(table.rows)):
            rows = as_frame(table.read(group))
            yield rows.assign(first=[names[0] if len(names) else "" for names in rows["classes"]])


def _classes(
    record: Mapping[str, Any], counts: RunCounts
) -> tuple[dict[str, int], dict[str, Colour], dict[str, SeedRule]]:
    """Return label id, colour and seed rule of each class.

    They come from the recorded vocabulary, or from the plan's class names in alphabetical order.
    """
    vocabulary = record.get("sample_settings", {}).get("vocabulary")
    entries = vocabulary.get("classes", []) if isinstance(vocabulary, dict) else []
    entries = entries or [
        {"id": number, "name": name} for number, name in enumerate(sorted(counts.classes), 1)
    ]
    ids = {str(entry["name"]): int(entry["id"]) for entry in entries}
    colours = {
        entry["name"]: tuple(entry.get("palette") or default_colour(entry["id"]))
        for entry in entries
    }
    rules = {entry["name"]: SeedRule(**(entry.get("seeds") or {})) for entry in entries}
    return ids, colours, rules


def _samples(plan: pd.DataFrame, readers: Mapping[str, StageReader]) -> pd.DataFrame:
    """Return rows of the plan with the columns that the stages add."""
    shards = plan["shard"].unique()
    empty = pd.DataFrame(columns=["id", "at"], dtype=object)
    read = {name: readers[name].table(shards) for name in _SHOWN if name in readers}
    tables = {name: read.get(name, empty) for name in _SHOWN}
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
    """Return columns of the tables, one row per id, with the shard's path as column `at`."""
    wanted = [table.reindex(columns=["id", "at", *names]) for table in tables]
    table = pd.concat(wanted, ignore_index=True)
    return table.drop_duplicates("id").rename(columns={"at": at})
