"""The plan as it lies in the store: a task reads and checks the rows of its shard, however many there are.

`runs/<run>/plan.parquet` is a table in groups of whole shards, whose footer tells which shards each group has, and
`Notes` of the whole. A plan that an older version stored is one group, and is read and checked whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from infra.parsing import checked
from infra.settings import Settings
from infra.store import Store
from infra.store.groups import GroupedTable
from infra.store.tables import as_frame, grouped
from tasks.prompts import PlanError

__all__ = ["COLUMNS", "Plan", "stored_plan"]

COLUMNS = {
    "row": "int", "id": "str", "kind": "str", "prompt": "str", "classes": "list[str]", "phrases": "list[str]",
    "background": "str", "sources": "list[int]", "seed": "int", "shard": "int",
}  # fmt: skip
_REMEDY = "delete the file and run again"
_KINDS = ("single", "multi", "negative", "composed")


class Notes(BaseModel):
    """What the whole plan holds: rows by kind, shards, and the most phrases of a row."""

    model_config = ConfigDict(extra="forbid")

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
        self |= {"kinds": dict(kinds), "generated": shards[False], "composed": shards[True], "phrases": phrases}


def stored_plan(groups: Iterable[pd.DataFrame]) -> memoryview:
    """The plan, as `tasks.plan.plan_groups` makes it, as the file that is stored."""
    notes = _Counted(kinds={}, generated=0, composed=0, phrases=0)
    return grouped(notes.watching(groups), COLUMNS, ["shard"], notes)


class Plan:
    """The plan of a run that was started. Only the rows that are asked for are read, and checked then."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._path = f"runs/{settings.name}/plan.parquet"
        self._names = set(settings.load_vocabulary().names)
        self._table = GroupedTable(store, self._path, COLUMNS)
        self._starts = [0, *accumulate(self._table.rows)]
        bounds = self._table.bounds("shard")
        self.notes = self._noted(self._table.notes if bounds else self._counted())
        self._bounds = bounds or [(0, len(self._table))]
        if not bounds:
            self._check(as_frame(self._table.read(0)), np.arange(len(self)))

    def __len__(self) -> int:
        return len(self._table)

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
        found = [self._of_group(group, shard) for group, (low, high) in enumerate(self._bounds) if low <= shard <= high]
        return pd.concat(found) if found else as_frame(self._table.read(0)).head(0)

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all rows, a group at a time."""
        return (self._table.read(group, names) for group in range(len(self._table.rows)))

    def _of_group(self, group: int, shard: int) -> pd.DataFrame:
        table = self._table.read(group)
        places = np.flatnonzero(table["shard"].to_numpy() == shard)
        rows, start = as_frame(table.take(places)), self._starts[group]
        self._check(rows, start + places)
        return rows.set_index(start + places)

    def _counted(self) -> dict[str, Any]:
        notes = _Counted(kinds={}, generated=0, composed=0, phrases=0)
        for _ in notes.watching(as_frame(table) for table in self.columns(list(COLUMNS))):
            pass
        return notes

    def _noted(self, found: dict[str, Any]) -> Notes:
        try:
            notes: Notes = checked(found, Notes)
        except ValueError as error:
            raise PlanError(f"{self._path}: {error}; {_REMEDY}") from error
        if sum(notes.kinds.values()) != len(self) or notes.generated + notes.composed > len(self):
            raise PlanError(f"{self._path}: it has {len(self)} rows, but notes of {found}; {_REMEDY}")
        return notes

    def _check(self, rows: pd.DataFrame, numbers: NDArray[np.int64]) -> None:
        """Raise `PlanError` for rows that are not those of these numbers, by what `make_plan` gives."""
        first_scene, composed = len(self) - self.scenes, rows["kind"] == "composed"
        shards = self.notes.generated + self.notes.composed
        wrong = {
            "row": rows["row"] != numbers,
            "id": pd.to_numeric(rows["id"], errors="coerce") != numbers,
            "kind": ~rows["kind"].isin(_KINDS) | (composed != (numbers >= first_scene)),
            "classes": ~rows["classes"].map(self._names.issuperset),
            "shard": ~rows["shard"].between(0, shards - 1) | (composed != (rows["shard"] >= self.notes.generated)),
            "sources": ~rows["sources"].map(lambda sources: all(0 <= row < first_scene for row in sources)),
        }
        for column, faulty in wrong.items():
            if faulty.any():
                found = rows.loc[faulty, column].iloc[0]
                raise PlanError(f"{self._path}: {column} {found!r} is of no plan of this run; {_REMEDY}")
