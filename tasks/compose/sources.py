"""Sources: the generated samples of a run, from which scenes are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.store import ShardReader, Store
from tasks.plan.table import Plan
from tasks.run.layout import shard_path

__all__ = ["Generated", "Pool", "Rows", "Source", "rows_of"]

Bytes = NDArray[np.uint8]

SPARES = 8  # rows tried in place of a source that was rejected
_NO_CLASS = -1  # code of a row without classes
_OTHER = -2  # code of a row that shows several classes, or is composed


@dataclass(frozen=True)
class Source:
    """A kept generated sample: image (H, W, 3) and label (H, W), uint8, and refine's measures."""

    row: int
    id: str
    image: Bytes
    label: Bytes
    confidence: float
    consistency: float


Load = Callable[[int], Source | None]  # the sample of a row, None if it was rejected


class Rows:
    """Which rows show one object of a class, and which show none; twelve bytes per planned row."""

    def __init__(self, tables: Iterable[pa.Table], names: Sequence[str]) -> None:
        """`tables` are all rows in order, with `kind`, `classes` and `shard`.

        `names` are the names of the classes.
        """
        self._names = names
        codes = []
        shards = []
        for table in tables:
            codes.append(_codes(table, names))
            shards.append(table["shard"].to_numpy().astype(np.int32))
        self._codes = np.concatenate(codes)
        self._shards = np.concatenate(shards)
        self._order = np.argsort(self._codes, kind="stable").astype(np.int32)
        self._sorted = self._codes[self._order]

    def class_of(self, row: int) -> str:
        """Name of the only class that a row shows, "" if it does not show exactly one."""
        code = self._codes[row]
        return self._names[code] if code >= 0 else ""

    def like(self, row: int) -> NDArray[np.int32]:
        """All rows that show the same only class.

        For a row that does not show exactly one, these are the rows that show none.
        """
        code = max(int(self._codes[row]), _NO_CLASS)
        first, last = np.searchsorted(self._sorted, [code, code + 1])
        return self._order[first:last]

    def shard_of(self, row: int) -> int:
        """The shard that a row is in."""
        return int(self._shards[row])


def _codes(table: pa.Table, names: Sequence[str]) -> NDArray[np.int16]:
    """Index of each row's only class in `names`, or `_NO_CLASS` or `_OTHER`."""
    kinds = table["kind"].to_numpy()
    codes = np.full(len(table), _OTHER, np.int16)
    codes[kinds == "negative"] = _NO_CLASS
    single = table["classes"].filter(pa.array(kinds == "single")).combine_chunks().flatten()
    codes[kinds == "single"] = pc.index_in(single, pa.array(names, single.type)).to_numpy()
    return codes


@lru_cache(maxsize=1)
def rows_of(plan: Plan, names: tuple[str, ...]) -> Rows:
    """The rows of a plan by these classes.

    Cached, so that a process that makes many shards of a run reads the plan once.
    """
    return Rows(plan.columns(["kind", "classes", "shard"]), names)


class Pool:
    """The samples from which scenes may be made; `load` reads the sample of a row."""

    def __init__(self, rows: Rows, load: Load) -> None:
        self.class_of = rows.class_of
        self._like = rows.like
        self._load = load

    def good(self, row: int, rng: np.random.Generator) -> Iterator[Source]:
        """The sample of `row` and samples like it (see `Rows.like`), without rejected ones."""
        for candidate in dict.fromkeys([row, *rng.choice(self._like(row), SPARES).tolist()]):
            if source := self._load(candidate):
                yield source


class Generated:
    """The generated samples of a run, read from the store one by one."""

    def __init__(self, store: Store, run: str, rows: Rows) -> None:
        self._store = store
        self._run = run
        self._rows = rows
        self._shard = cache(self._open)

    def _open(self, shard: int) -> tuple[ShardReader, ShardReader, pd.DataFrame]:
        """Readers of a shard's images and of its labels, and the verdicts of `select` by row.

        Labels are those that `select` filtered, if it did.
        """
        images, labels, selected = (
            ShardReader(self._store, shard_path(self._run, stage, shard))
            for stage in ("synthesize", "refine", "select")
        )
        path = shard_path(self._run, "select", shard)
        verdicts = self._store.read_table(f"{path}.parquet").set_index("row")
        return images, selected if "label" in selected.fields else labels, verdicts

    def load(self, row: int) -> Source | None:
        """The sample of that row; None if `select` rejected it."""
        images, labels, verdicts = self._shard(self._rows.shard_of(row))
        verdict = verdicts.loc[row]
        if not verdict["keep"]:
            return None
        index = images.ids.index(verdict["id"])
        return Source(
            int(row),
            str(verdict["id"]),
            images.read("image", index),
            labels.read("label", index),
            float(verdict["confidence"]),
            float(verdict["consistency"]),
        )

    def size(self) -> tuple[int, int]:
        """Height and width of the run's images."""
        images, _, _ = self._shard(self._rows.shard_of(0))
        _, height, width, _ = images.marker.fields["image"].shape
        return height, width
