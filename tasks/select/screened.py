"""Screened: the samples that passed the screen, from which noise learning learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from infra.settings import Settings
from infra.store import ShardReader, Store
from infra.store.tables import as_frame
from tasks.plan.table import Plan
from tasks.run.layout import shard_path

__all__ = ["Screened", "columns_of", "passed_rows", "paths_of", "screened_rows"]

_PLANNED = ["row", "id", "kind", "classes", "shard"]  # columns of the plan that are needed here


class Screened(Dataset[dict[str, Any]]):
    """Images and labels of a run's screened rows, read one by one; items as `LabelledItem`.

    `rows` has `shard` and `place` (position in the shard), in the order of the items.
    """

    def __init__(self, store: Store, run: str, rows: pd.DataFrame) -> None:
        self._store = store
        self._run = run
        self._where = rows[["shard", "place"]].to_numpy(np.int64)
        self._readers: dict[str, ShardReader] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, place = self._where[index]
        image = self._reader("synthesize", shard).read("image", place)
        label = self._reader("refine", shard).read("label", place)
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return {"image": pixels, "label": torch.from_numpy(label), "id": f"{shard}:{place}"}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def _reader(self, stage: str, shard: int) -> ShardReader:
        path = shard_path(self._run, stage, shard)
        if path not in self._readers:
            self._readers[path] = ShardReader(self._store, path)
        return self._readers[path]


def screened_rows(store: Store, settings: Settings) -> Iterator[pd.DataFrame]:
    """The generated rows that passed the screen, as `passed_rows` returns them, in groups.

    A group holds whole shards.
    """
    for table in Plan(store, settings).columns(_PLANNED):
        rows = as_frame(table)
        rows = rows[rows["kind"] != "composed"]
        if len(rows) and len(passed := passed_rows(store, settings, rows)):
            yield passed


def passed_rows(store: Store, settings: Settings, rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows of whole shards that passed the screen, in order of `row`.

    Columns: `row`, `id`, `classes`, `shard`, `place` (position in the shard) and `fold`.
    """
    verdicts = columns_of(store, paths_of(settings, "screen", rows), ["row", "keep"])
    rows = rows[["row", "id", "classes", "shard"]].assign(place=rows.groupby("shard").cumcount())
    rows = rows.merge(verdicts, on="row")
    rows = rows[rows["keep"]].drop(columns="keep").sort_values("row", ignore_index=True)
    return rows.assign(fold=rows["row"] % settings.select.folds)


def paths_of(settings: Settings, stage: str, rows: pd.DataFrame) -> list[str]:
    """Paths of a stage's shards that hold these rows."""
    return [shard_path(settings.name, stage, shard) for shard in rows["shard"].unique()]


def columns_of(store: Store, paths: Sequence[str], names: list[str]) -> pd.DataFrame:
    """These columns of the shards at these paths, as one table."""
    with ThreadPoolExecutor(store.place.readers) as pool:
        return pd.concat(pool.map(lambda path: store.read_table(f"{path}.parquet")[names], paths))
