"""Pool: the generated rows of a run, from which scenes are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.plan.table import Plan

__all__ = ["Pool", "Rows", "Source", "rows_of"]

Bytes = NDArray[np.uint8]

SPARES = 8  # rows tried in place of a source that is no good
_NO_CLASS, _OTHER = -1, -2


@dataclass(frozen=True)
class Source:
    """A generated sample that is good enough: image (H, W, 3), label (H, W) uint8, and what refine
    says of it.
    """

    row: int
    id: str
    image: Bytes
    label: Bytes
    confidence: float
    consistency: float


Load = Callable[[int], Source | None]  # the sample of a row, None if it is no good


class Rows:
    """Which rows show one object of a class, and which show none; twelve bytes a row of the plan."""

    def __init__(self, tables: Iterable[pa.Table], names: Sequence[str]) -> None:
        """`tables` are all rows in order, by `kind`, `classes` and `shard`;

        `names` are the classes' names.
        """
        self._names = names
        parts = [
            (_codes(table, names), table["shard"].to_numpy().astype(np.int32)) for table in tables
        ]
        self._codes, self._shards = (
            np.concatenate(columns) for columns in zip(*parts, strict=True)
        )
        self._order = np.argsort(self._codes, kind="stable").astype(np.int32)
        self._sorted = self._codes[self._order]

    def class_of(self, row: int) -> str:
        """Name of the one class that a row shows, "" if it is not one."""
        code = self._codes[row]
        return self._names[code] if code >= 0 else ""

    def like(self, row: int) -> NDArray[np.int32]:
        """All rows that show the same class and no other; of a row without exactly one, those that
        show none.
        """
        code = max(int(self._codes[row]), _NO_CLASS)
        first, last = np.searchsorted(self._sorted, [code, code + 1])
        return self._order[first:last]

    def shard_of(self, row: int) -> int:
        """The shard that a row is in."""
        return int(self._shards[row])


def _codes(table: pa.Table, names: Sequence[str]) -> NDArray[np.int16]:
    kinds, codes = table["kind"].to_numpy(), np.full(len(table), _OTHER, np.int16)
    codes[kinds == "negative"] = _NO_CLASS
    single = table["classes"].filter(pa.array(kinds == "single")).combine_chunks().flatten()
    codes[kinds == "single"] = pc.index_in(single, pa.array(names, single.type)).to_numpy()
    return codes


@lru_cache(maxsize=1)
def rows_of(plan: Plan, names: tuple[str, ...]) -> Rows:
    """The rows of a plan by these classes; a process that makes many shards of a run reads them
    once.
    """
    return Rows(plan.columns(["kind", "classes", "shard"]), names)


class Pool:
    """The rows of a plan that others may be made of:

    `load` gets one, and like-minded ones can be drawn.
    """

    def __init__(self, rows: Rows, load: Load) -> None:
        self.class_of = rows.class_of
        self._like, self._load = rows.like, load

    def good(self, row: int, rng: np.random.Generator) -> Iterator[Source]:
        """The sample of `row`, and others of its class (or negatives, if it is one), as far as they
        are good.
        """
        for candidate in dict.fromkeys([row, *rng.choice(self._like(row), SPARES).tolist()]):
            if source := self._load(candidate):
                yield source
