"""The stored plan: a task reads and checks only the rows of its shard.

`runs/<run>/plan.parquet` is a table in groups of whole shards. Its footer says which shards each
group has, and holds `Notes` about the whole plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.settings import Settings
from infra.store import Store
from infra.store.groups import GroupedTable
from infra.store.tables import as_frame, grouped
from tasks.plan.notes import REMEDY, Counts, read_notes
from tasks.plan.prompts import PlanError

__all__ = ["COLUMNS", "Plan", "plan_path", "stored_plan", "stored_shards"]

COLUMNS = {
    "row": "int",
    "id": "str",
    "kind": "str",
    "prompt": "str",
    "classes": "list[str]",
    "phrases": "list[str]",
    "background": "str",
    "sources": "list[int]",
    "seed": "int",
    "shard": "int",
}
_KINDS = ("single", "multi", "negative", "composed")


def plan_path(run: str) -> str:
    """Path of a run's plan in the store."""
    return f"runs/{run}/plan.parquet"


def stored_plan(groups: Iterable[pd.DataFrame]) -> memoryview:
    """The content of the file for a plan in groups of whole shards, as `plan_groups` yields it."""
    counts = Counts()
    return grouped(counts.of(groups), COLUMNS, ["shard"], counts.notes)


def stored_shards(store: Store, run: str) -> tuple[range, range]:
    """Shards of generated and of composed rows in a run's plan; every byte of it is read.

    Needs no settings. Raises `StoreError` for damage and for another format, `PlanError` for notes
    that are not those of the rows.
    """
    path = plan_path(run)
    table = GroupedTable(store, path, COLUMNS)
    notes = read_notes(table, path)
    for group in range(len(table.rows)):
        table.read(group, table.names)
    return notes.shards


class Plan:
    """The plan of a run that was started. Rows are read, and checked, when they are asked for."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._path = plan_path(settings.name)
        self._names = set(settings.load_vocabulary().names)
        self._of_maps = settings.generator.flow is not None
        self._table = GroupedTable(store, self._path, COLUMNS)
        self._starts = [0, *accumulate(self._table.rows)]
        self._bounds = self._table.bounds("shard")
        self.notes = read_notes(self._table, self._path)

    def __len__(self) -> int:
        return len(self._table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and (self._path, self._table.digest) == (
            other._path,
            other._table.digest,
        )

    def __hash__(self) -> int:
        return hash(self._table.digest)

    @property
    def generated(self) -> range:
        """Shards of generated rows."""
        return self.notes.shards[0]

    @property
    def composed(self) -> range:
        """Shards of composed rows, after the others."""
        return self.notes.shards[1]

    @property
    def scenes(self) -> int:
        """Number of composed rows, which come last."""
        return self.notes.kinds.get("composed", 0)

    def of_shard(self, shard: int) -> pd.DataFrame:
        """The rows of a shard, indexed by their number; none if there is no such shard."""
        found = [
            self._of_group(group, shard)
            for group, (low, high) in enumerate(self._bounds)
            if low <= shard <= high
        ]
        return pd.concat(found or [pd.DataFrame(columns=list(COLUMNS))])

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all rows, one group at a time."""
        for group, start in enumerate(self._starts[:-1]):
            table = self._table.read(group, names)
            self._check(table, np.arange(start, start + len(table)))
            yield table

    def _of_group(self, group: int, shard: int) -> pd.DataFrame:
        table = self._table.read(group)
        positions = np.flatnonzero(table["shard"].to_numpy() == shard)
        rows = table.take(positions)
        numbers = self._starts[group] + positions
        self._check(rows, numbers)
        return as_frame(rows).set_index(numbers)

    def _check(self, rows: pa.Table, numbers: NDArray[np.int64]) -> None:
        """Raise `PlanError` unless `plan_groups` can have made these rows with these numbers."""
        for column in rows.column_names:
            faulty = self._faulty(column, rows[column].combine_chunks(), numbers)
            if faulty.any():
                found = rows[column][int(faulty.argmax())].as_py()
                raise PlanError(
                    f"{self._path}: {column} {found!r} is of no plan of this run; {REMEDY}"
                )

    def _faulty(
        self, column: str, values: pa.Array, numbers: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which values of a column are wrong in the rows with these numbers."""
        generated = numbers < len(self) - self.scenes
        if column == "row":
            return np.asarray(values.to_numpy() != numbers)
        if column == "id":
            return np.asarray(pd.to_numeric(values.to_pandas(), errors="coerce") != numbers)
        if column == "kind":
            return np.asarray(~_among(values, _KINDS) | (_among(values, ["composed"]) == generated))
        if column == "shard":
            return self._faulty_shards(values.to_numpy(), generated)
        if column == "classes":
            return _rows_with(values, ~_among(values.flatten(), self._names))
        if column == "sources":
            return self._faulty_sources(values, generated)
        return np.zeros(len(values), np.bool_)

    def _faulty_sources(self, values: pa.Array, generated: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which sources are no generated rows; those of generated rows may be label maps."""
        sources = values.flatten().to_numpy(zero_copy_only=False)
        drawn = generated & self._of_maps
        outside = ~drawn[pc.list_parent_indices(values).to_numpy()]
        outside &= sources >= len(self) - self.scenes
        without = drawn & (pc.list_value_length(values).to_numpy() == 0)
        return np.asarray(without | _rows_with(values, (sources < 0) | outside))

    def _faulty_shards(
        self, shards: NDArray[np.int64], generated: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which shard numbers are outside the plan, or of the other kind of rows."""
        outside = (shards < 0) | (shards >= self.composed.stop)
        return np.asarray(outside | ((shards < self.composed.start) != generated))


def _among(values: pa.Array, known: Iterable[str]) -> NDArray[np.bool_]:
    among = pc.is_in(values, pa.array(list(known), values.type))
    return np.asarray(among.to_numpy(zero_copy_only=False))


def _rows_with(lists: pa.Array, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which lists hold a value that is wrong."""
    found = np.zeros(len(lists), np.bool_)
    found[pc.list_parent_indices(lists).to_numpy()[wrong]] = True
    return found
