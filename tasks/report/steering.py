"""Steering: what the next run makes more of, and the figures that led to it, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.report.figures import UNKNOWN, as_count, as_percent

__all__ = ["as_times", "in_words", "steering_rows", "steering_table"]

SHOWN = 24  # wordings on the page: those whose weight differs most from 1
_IN_WORDS = {
    "class": "class",
    "backgrounds": "background",
    "counts": "classes in a prompt",
    "sizes": "size",
}


def as_times(factor: float | None) -> str:
    """Return a factor as text, a dash for None."""
    return UNKNOWN if factor is None else f"{factor:.2f} times"


def steering_rows(budget: Mapping[str, Any] | None, classes: bool) -> list[dict[str, Any]]:
    """Return the rows of budget.json about classes, or about wordings, as texts by column.

    The rows whose weight differs most from 1 come first, and only these of the wordings.
    """
    rows = [row for row in (budget or {}).get("rows", []) if (row["what"] == "class") == classes]
    rows = sorted(rows, key=lambda row: -abs(math.log(row["weight"] or 1.0)))
    share = as_percent if classes else as_times
    return [
        {
            "what": in_words(row["what"]),
            "name": row["name"],
            "weight": f"{row['weight']:.2f}",
            "missing": share(row.get("missing")),
            "uncertain": share(row.get("uncertain")),
            "kept": as_percent(row.get("kept")),
            "measured": as_count(row.get("measured") or 0),
        }
        for row in rows[: None if classes else SHOWN]
    ]


def in_words(what: str) -> str:
    """Return what a row of budget.json is about, in words."""
    kind, _, of = what.partition(" of ")
    return f"kind of {of}" if of else _IN_WORDS.get(kind, kind)


def steering_table(budget: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the same rows, classes first, as Prefect's table shows them."""
    for classes in (True, False):
        for row in steering_rows(budget, classes):
            yield {
                "what": f"{row['what']} {row['name']}",
                "weight in the next run": row["weight"],
                "missing IoU": row["missing"],
                "uncertainty": row["uncertain"],
                "keep rate": row["kept"],
            }
