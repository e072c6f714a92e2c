"""Ranking: which samples of a class are trusted least (DiffuMask, ICCV 2023, section 3.4).

A whole run is ranked once. The result is a threshold per class. Samples are then judged one by one
against it, so that no task has to read the verdicts of a whole run. Ranking takes 16 bytes of
memory per sample and class.
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
from tasks.schemas import Ranking, Threshold

__all__ = ["Scores", "pass_thresholds", "read_ranking"]

# Robust standard deviations. Of planted faults in a tenth of drawn scenes' labels this drops 0.97,
# and 0.03 of the right labels (`benchmarks.faults`). Of a run's labels it drops 7 %: one in seven
# of those has IoU under 0.8, of the rest one in 25.
OUTLIER = 2.0
_CERTAIN = 1e-6  # scores are clipped to this distance from 0 and 1, where log-odds are infinite

Keep = float | Literal["auto"]
Values = NDArray[np.float64]
RowNumbers = NDArray[np.int64]


class Scores:
    """Scores of a run's samples by class, added a table at a time in any order."""

    def __init__(self) -> None:
        self._of: defaultdict[str, list[tuple[Values, RowNumbers]]] = defaultdict(list)

    def add(self, table: pd.DataFrame) -> None:
        """Add samples with `row`, `classes` and `score` in [0, 1].

        A sample of several classes counts in each.
        """
        for name, rows in table[["row", "classes", "score"]].explode("classes").groupby("classes"):
            scores = rows["score"].to_numpy(np.float64)
            self._of[str(name)].append((scores, rows["row"].to_numpy(np.int64)))

    def thresholds(self, keep: Keep) -> dict[str, Threshold]:
        """Threshold of each class: score and row of the last sample that stays, ties by row.

        Of n samples floor(keep n) stay, but at least one, so that no class vanishes. The count is
        exact: 0.29 of 100 are 29. With "auto" all stay but the outliers: those `OUTLIER` robust
        standard deviations (1.4826 times the median absolute deviation) below the median, in the
        log-odds of the scores. A class whose scores are mostly equal loses none. Raises
        `ValueError` for a share outside (0, 1].
        """
        if keep != "auto" and not 0 < keep <= 1:
            raise ValueError(f"share {keep} of each class to keep is outside (0, 1]; 1 keeps all")
        return {
            name: _threshold(keep, *map(np.concatenate, zip(*parts, strict=True)))
            for name, parts in self._of.items()
        }


def _threshold(keep: Keep, scores: Values, rows: RowNumbers) -> Threshold:
    order = np.lexsort((rows, -scores))
    if keep == "auto":
        stay = len(scores) - _outliers(scores)
    else:
        stay = max(1, math.floor(Fraction(str(keep)) * len(scores)))
    last = order[stay - 1]
    return Threshold(score=float(scores[last]), row=int(rows[last]))


def _outliers(scores: Values) -> int:
    """Number of scores far below the others."""
    certain = scores.clip(_CERTAIN, 1 - _CERTAIN)
    odds = np.log(certain / (1 - certain))
    below = np.median(odds) - odds
    deviation = 1.4826 * np.median(np.abs(below))
    return int((below > OUTLIER * deviation).sum()) if deviation > 0 else 0


def pass_thresholds(table: pd.DataFrame, thresholds: Mapping[str, Threshold]) -> NDArray[np.bool_]:
    """Which samples with `row`, `classes` and `score` reach the thresholds of all their classes.

    Samples without classes always do. Raises `ValueError` for a class without a threshold.
    """
    if unknown := {name for names in table["classes"] for name in names} - thresholds.keys():
        names = ", ".join(sorted(unknown))
        raise ValueError(
            f"the ranking has no threshold for {names}; delete ranking.json and run again"
        )
    columns = zip(table["score"], table["row"], table["classes"], strict=True)
    passed = [
        all(_reaches(score, row, thresholds[name]) for name in names)
        for score, row, names in columns
    ]
    return np.array(passed, np.bool_)


def _reaches(score: float, row: int, threshold: Threshold) -> bool:
    if score == threshold.score:
        return row <= threshold.row
    return score > threshold.score


def read_ranking(store: Store, run: str) -> Ranking:
    """The ranking of the run in this folder.

    Raises `StoreError` for a file that is missing or is no ranking.
    """
    return Ranking.model_validate(store.read_json(f"{run}/ranking.json", Ranking))
