"""Ranking: which samples of a class are trusted least (DiffuMask, ICCV 2023, section 3.4: count,
rank, prune).

A whole run is ranked once. What comes of it is a bar a class, by which samples are then judged one
by one, so that nobody has to hold or read the verdicts of a whole run. Of each sample and class,
ranking takes 16 bytes of memory.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.store import Store
from tasks.schemas import Bar, Ranking

__all__ = ["Scores", "clear_bars", "read_ranking"]

# Robust standard deviations. Of faults in 6 % of drawn scenes' labels this drops 0.56 (7 % of all
# labels) after 600 steps a fold, 0.99 (10 %) after 2 400; of a night's 7 %: one in seven has IoU
# under 0.8, of the rest one in 25.
OUTLIER = 2.0
_CERTAIN = 1e-6  # score whose odds are as good as none


class Scores:
    """Scores of a run's samples by class, added a table at a time in whatever order."""

    def __init__(self) -> None:
        self._of: defaultdict[str, list[tuple[NDArray[np.float64], NDArray[np.int64]]]] = (
            defaultdict(list)
        )

    def add(self, table: pd.DataFrame) -> None:
        """Add samples with `row`, `classes` and `score` in [0, 1]; one of several classes counts in
        each.
        """
        for name, rows in table[["row", "classes", "score"]].explode("classes").groupby("classes"):
            self._of[str(name)].append(
                (rows["score"].to_numpy(np.float64), rows["row"].to_numpy(np.int64))
            )

    def bars(self, keep: float | Literal["auto"]) -> dict[str, Bar]:
        """Bar of each class: that of the last sample that stays, by score, ties by row.

        Of n samples floor(keep n) stay, but at least one, so that no class vanishes. Counted in
        exact fractions: 0.29 of 100 are 29. With "auto" all stay but those whose score lies far
        below the others: `OUTLIER` robust standard deviations (1.4826 times the median absolute
        deviation) under the median, both of the scores' log-odds. A class whose scores are mostly
        equal loses none.
        """
        if keep != "auto" and not 0 < keep <= 1:
            raise ValueError(f"share {keep} of each class to keep is outside (0, 1]; 1 keeps all")
        return {
            name: _bar(keep, *map(np.concatenate, zip(*parts, strict=True)))
            for name, parts in self._of.items()
        }


def _bar(
    keep: float | Literal["auto"], scores: NDArray[np.float64], rows: NDArray[np.int64]
) -> Bar:
    order = np.lexsort((rows, -scores))
    stay = (
        _without_outliers(scores)
        if keep == "auto"
        else max(1, math.floor(Fraction(str(keep)) * len(scores)))
    )
    last = order[stay - 1]
    return Bar(score=float(scores[last]), row=int(rows[last]))


def _without_outliers(scores: NDArray[np.float64]) -> int:
    """How many scores do not lie far below the others."""
    certain = scores.clip(_CERTAIN, 1 - _CERTAIN)
    odds = np.log(certain / (1 - certain))
    below = np.median(odds) - odds
    deviation = 1.4826 * np.median(np.abs(below))
    return int((below <= OUTLIER * deviation).sum()) if deviation > 0 else len(scores)


def clear_bars(table: pd.DataFrame, bars: Mapping[str, Bar]) -> NDArray[np.bool_]:
    """Which samples with `row`, `classes` and `score` clear the bars of all their classes; without
    classes, all do.

    Raises `ValueError` for a class without a bar.
    """
    if unknown := {name for names in table["classes"] for name in names} - bars.keys():
        raise ValueError(
            f"the ranking has no bar for {', '.join(sorted(unknown))}; delete ranking.json and run again"
        )
    columns = zip(table["score"], table["row"], table["classes"], strict=True)
    return np.array(
        [all(_clears(score, row, bars[name]) for name in names) for score, row, names in columns],
        np.bool_,
    )


def read_ranking(store: Store, run: str) -> Ranking:
    """The ranking of the run in this folder.

    Raises `StoreError` for a file that is missing or is no ranking.
    """
    return Ranking.model_validate(store.read_json(f"{run}/ranking.json", Ranking))


def _clears(score: float, row: int, bar: Bar) -> bool:
    return score > bar.score or (score == bar.score and row <= bar.row)
