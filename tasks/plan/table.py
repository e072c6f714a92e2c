"""The plan as it lies in the store: a task reads and checks the rows of its shard, however many
there are.

`runs/<run>/plan.parquet` is a table in groups of whole shards, whose footer tells which shards each
group has, and `Notes` of the whole. A plan that an older version stored is one group, and is read
and checked whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from infra.parsing import checked
from infra.settings import Settings
from infra.store import Store
from infra.store.groups import GroupedTable
from infra.store.tables import as_frame, grouped
from tasks.plan.prompts import PlanError

__all__ = ["COLUMNS", "Plan", "stored_plan"]

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
_REMEDY = "delete the file and run again"
_KINDS = ("single", "multi", "negative", "composed")


class Notes(BaseModel):
    """What the whole plan holds: rows by kind, shards, and the most phrases of a row."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kinds: dict[str, NonNegativeInt]
    generated: NonNegativeInt  # shards
    composed: NonNegativeInt
    phrases: NonNegativeInt


class _Counted(dict[str, Any]):
    """Notes of the groups that have passed by."""

    def watching(self, groups: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        kinds, shards, phrases = Counter[str](), Counter[bool](), 0
        for group in groups:
            kinds.update(group["kind"])
            phrases = max(phrases, int(group["phrases"].map(len).max()))
            for composed, rows in group.groupby(group["kind"] == "composed"):
                shards[bool(composed)] += rows["shard"].nunique()
            yield group
        self |= {
            "kinds": dict(kinds),
            "generated": shards[False],
            "composed": shards[True],
            "phrases": phrases,
        }


def _counted(table: pd.DataFrame) -> dict[str, Any]:
    notes = _Counted(kinds={}, generated=0, composed=0, phrases=0)
    for _ in notes.watching([table] if len(table) else []):
        pass
    return notes


def stored_plan(groups: Iterable[pd.DataFrame]) -> memoryview:
    """The plan, as `tasks.plan.rows.plan_groups` makes it, as the file that is stored."""
    notes = _Counted(kinds={}, generated=0, composed=0, phrases=0)
    return grouped(notes.watching(groups), COLUMNS, ["shard"], notes)


class Plan:
    """The plan of a run that was started.

    Only the rows that are asked for are read, and checked then.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._path = f"runs/{settings.name}/plan.parquet"
        self._names = set(settings.load_vocabulary().names)
        self._table = GroupedTable(store, self._path, COLUMNS)
        self._starts = [0, *accumulate(self._table.rows)]
        bounds = self._table.bounds("shard")
        in_one_piece = bounds is None
        self._bounds = [(0, len(self))] if bounds is None else bounds
        self.notes = self._noted(
            _counted(as_frame(self._table.read(0))) if in_one_piece else self._table.notes
        )
        if in_one_piece:
            self._check(self._table.read(0), np.arange(len(self)))

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
        return range(self.notes.generated)

    @property
    def composed(self) -> range:
        """Shards of composed rows, after the others."""
        return range(self.notes.generated, self.notes.generated + self.notes.composed)

    @property
    def scenes(self) -> int:
        """Number of composed rows, the last of all."""
        return self.notes.kinds.get("composed", 0)

    def of_shard(self, shard: int) -> pd.DataFrame:
        """The rows of a shard, by their number; none if there is no such shard."""
        found = [
            self._of_group(group, shard)
            for group, (low, high) in enumerate(self._bounds)
            if low <= shard <= high
        ]
        return pd.concat(found or [pd.DataFrame(columns=list(COLUMNS))])

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all rows, a group at a time."""
        for group, start in enumerate(self._starts[:-1]):
            table = self._table.read(group, names)
            self._check(table, np.arange(start, start + len(table)))
            yield table

    def _of_group(self, group: int, shard: int) -> pd.DataFrame:
        table = self._table.read(group)
        places = np.flatnonzero(table["shard"].to_numpy() == shard)
        rows, numbers = table.take(places), self._starts[group] + places
        self._check(rows, numbers)
        return as_frame(rows).set_index(numbers)

    def _noted(self, found: dict[str, Any]) -> Notes:
        try:
            notes: Notes = checked(found, Notes)
        except ValueError as error:
            raise PlanError(f"{self._path}: {error}; {_REMEDY}") from error
        if sum(notes.kinds.values()) != len(self) or notes.generated + notes.composed > len(self):
            raise PlanError(
                f"{self._path}: it has {len(self)} rows, but notes of {found}; {_REMEDY}"
            )
        return notes

    def _check(self, rows: pa.Table, numbers: NDArray[np.int64]) -> None:
        """Raise `PlanError` for rows that are not those of these numbers, by what `plan_groups`
        gives.
        """
        for column in rows.column_names:
            faulty = self._faulty(column, rows[column].combine_chunks(), numbers)
            if faulty.any():
                found = rows[column][int(faulty.argmax())].as_py()
                raise PlanError(
                    f"{self._path}: {column} {found!r} is of no plan of this run; {_REMEDY}"
                )

    def _faulty(
        self, column: str, values: pa.Array, numbers: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which of the values of a column are wrong in the rows of these numbers."""
        generated = numbers < len(self) - self.scenes
        if column == "row":
            return np.asarray(values.to_numpy() != numbers)
        if column == "id":
            return np.asarray(pd.to_numeric(values.to_pandas(), errors="coerce") != numbers)
        if column == "kind":
            return np.asarray(~_among(values, _KINDS) | (_among(values, ["composed"]) == generated))
        if column == "shard":
            shards, scenes = values.to_numpy(), self.notes.generated
            return np.asarray(
                (shards < 0)
                | (shards >= scenes + self.notes.composed)
                | ((shards < scenes) != generated)
            )
        if column == "classes":
            return _rows_with(values, ~_among(values.flatten(), self._names))
        if column == "sources":
            sources = values.flatten().to_numpy(zero_copy_only=False)
            return _rows_with(values, (sources < 0) | (sources >= len(self) - self.scenes))
        return np.zeros(len(values), np.bool_)


def _among(values: pa.Array, known: Iterable[str]) -> NDArray[np.bool_]:
    return np.asarray(
        pc.is_in(values, pa.array(list(known), values.type)).to_numpy(zero_copy_only=False)
    )


def _rows_with(lists: pa.Array, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which lists hold a value that is wrong."""
    found = np.zeros(len(lists), np.bool_)
    found[pc.list_parent_indices(lists).to_numpy()[wrong]] = True
    return found
