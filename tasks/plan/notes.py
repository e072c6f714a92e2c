"""Notes: facts about a whole plan, stored in the footer of its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from infra.parsing import checked
from infra.store.errors import FormatError
from infra.store.groups import GroupedTable
from tasks.plan.prompts import PlanError

__all__ = ["FORMAT", "REMEDY", "Counts", "Notes", "read_notes"]

FORMAT = 1  # of the table, its columns and its notes
REMEDY = "delete the file and run again"


class Notes(BaseModel):
    """Facts about the whole plan: its format, rows by kind, shards, and most phrases of a row."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    kinds: dict[str, NonNegativeInt]
    generated: NonNegativeInt  # shards
    composed: NonNegativeInt
    phrases: NonNegativeInt

    @property
    def shards(self) -> tuple[range, range]:
        """Shards of generated rows, and those of composed rows after them."""
        return range(self.generated), range(self.generated, self.generated + self.composed)


class Counts:
    """Counts the rows of a plan while its groups are written; `notes` are `Notes` as a dict."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {
            "format": FORMAT,
            "kinds": {},
            "generated": 0,
            "composed": 0,
            "phrases": 0,
        }

    def of(self, groups: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """The same groups; `notes` are complete after the last."""
        kinds = Counter[str]()
        shards = Counter[bool]()
        phrases = 0
        for group in groups:
            kinds.update(group["kind"])
            phrases = max(phrases, int(group["phrases"].map(len).max()))
            for composed, rows in group.groupby(group["kind"] == "composed"):
                shards[bool(composed)] += rows["shard"].nunique()
            yield group
        self.notes |= {
            "kinds": dict(kinds),
            "generated": shards[False],
            "composed": shards[True],
            "phrases": phrases,
        }


def read_notes(table: GroupedTable, path: str) -> Notes:
    """The notes of a stored plan.

    Raises `FormatError` for a plan of another format, `PlanError` for notes that are not those of
    its rows.
    """
    found = table.notes
    if "format" not in found:
        raise FormatError(
            f"{path} has no format, this version of segmint reads format {FORMAT}; {REMEDY}"
        )
    if found["format"] != FORMAT:
        raise FormatError(
            f"{path} has format {found['format']!r:.40}, this version of segmint reads format "
            f"{FORMAT}; use a newer segmint"
        )
    try:
        notes: Notes = checked(found, Notes)
    except ValueError as error:
        raise PlanError(f"{path}: {error}; {REMEDY}") from error
    rows = len(table)
    if sum(notes.kinds.values()) != rows or notes.generated + notes.composed > rows:
        raise PlanError(f"{path} has {rows} rows, but its notes are {found}; {REMEDY}")
    return notes
