"""Stored stage: the finished shards of one stage in the store, and the networks of noise learning.

Only shards with a marker count. Damaged tables are named, and their rows left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

from infra.store import Store, StoreError, read_marker
from tasks.report.counts import RunCounts
from tasks.run.layout import Stage, shard_path, stage_folder, stage_named
from tasks.schemas import Training

__all__ = ["StageReader", "StoredStage", "read_folds"]

_READERS = 8  # small files that are read at once; a bucket answers each after tens of milliseconds
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class StoredStage:
    """Finished shards of a stage, their rows and working time, and its unreadable tables.

    `planned` is the number of shards that the plan asks for. Working time is in seconds, summed
    over shards: workers that run at the same time count each. For the networks of noise learning
    `shards` are folds, and `rows` the images of their training steps.
    """

    planned: int
    shards: int
    rows: int
    seconds: float
    damaged: tuple[str, ...]


class StageReader:
    """Reads a stage's finished shards, and counts them; `found` says whether there are any."""

    def __init__(self, store: Store, run: str, stage: Stage) -> None:
        self._store = store
        self._run = run
        self._stage = stage
        folder = stage_folder(run, stage.name)
        markers = [name for name in store.list(folder) if name.endswith(".json")]
        self._unread = {f"{folder}/{name.removesuffix('.json')}" for name in markers}
        self.found = bool(markers)
        self._shards = 0
        self._rows = 0
        self._seconds = 0.0
        self._damaged: list[str] = []

    def table(self, shards: Iterable[int]) -> pd.DataFrame:
        """Return the rows of the finished ones of these shards; `at` is the shard's path."""
        paths = [shard_path(self._run, self._stage.name, shard) for shard in shards]
        finished = self._count([path for path in paths if path in self._unread])
        found = _at_once(lambda path: _table(self._store, path), finished)
        tables = dict(zip(finished, found, strict=True))
        self._damaged += [f"{path}.parquet" for path, table in tables.items() if table is None]
        whole = [table.assign(at=path) for path, table in tables.items() if table is not None]
        if not whole:
            return pd.DataFrame(columns=["id", "at"], dtype=object)
        return pd.concat(whole, ignore_index=True)

    def summary(self, counts: RunCounts) -> StoredStage:
        """Return what was found, including shards that the plan does not have."""
        self._count(sorted(self._unread))
        generated, composed = (range(number) for number in counts.shards)
        planned = len(self._stage.shards(generated, composed))
        return StoredStage(planned, self._shards, self._rows, self._seconds, tuple(self._damaged))

    def _count(self, paths: list[str]) -> list[str]:
        """Count the shards that have a marker, and return their paths."""
        self._unread.difference_update(paths)
        markers = _at_once(lambda path: read_marker(self._store, path), paths)
        found = {
            path: marker for path, marker in zip(paths, markers, strict=True) if marker is not None
        }
        self._shards += len(found)
        self._rows += sum(len(marker.ids) for marker in found.values())
        self._seconds += sum(marker.seconds for marker in found.values())
        return list(found)


def _at_once(read: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, items))


def _table(store: Store, path: str) -> pd.DataFrame | None:
    """Return a shard's table, None if it is damaged. Raises if the store cannot be reached."""
    try:
        return store.read_table(f"{path}.parquet")
    except StoreError:
        store.exists(path)  # raises if the store itself cannot be reached
        return None


def read_folds(store: Store, version: str, settings: Mapping[str, Any]) -> StoredStage | None:
    """Return the training of a run's noise-learning networks; None for a run without.

    `version` is the name of the run's version, with which the networks' names begin.
    """
    folds = settings.get("select", {}).get("folds", 0)
    if not stage_named("learn-fold").enabled(settings):
        return None
    paths = [f"checkpoints/{version}-fold-{fold}/meta.json" for fold in range(folds)]
    found = [store.read_json(path, Training) for path in paths if store.exists(path)]
    recipes = [meta.get("recipe", {}) for meta in found]
    images = sum(recipe.get("steps", 0) * recipe.get("batch_size", 0) for recipe in recipes)
    seconds = sum(meta.get("seconds", 0) for meta in found)
    return StoredStage(folds, len(found), images, seconds, ())
