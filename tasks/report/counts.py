"""Counts: how many samples of a run were planned, made, kept and rejected, with a few examples.

Counts are taken of one group of samples at a time. The counts of a run are the sum of those of its
groups, so memory does not grow with the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import pandas as pd

__all__ = ["PICKED", "Counts", "RunCounts"]

PICKED = 12  # examples per outcome, reason and class; the page shows as many per outcome


@dataclass(frozen=True)
class Counts:
    """Numbers of planned, made, kept and rejected samples, of labels, and the labels' confidences.

    `confidences` is the sum of the labels' confidences, each in [0, 1].
    """

    planned: int = 0
    made: int = 0
    kept: int = 0
    rejected: int = 0
    labels: int = 0
    confidences: float = 0.0

    @classmethod
    def of(cls, samples: pd.DataFrame) -> Counts:
        """Count rows with the columns `image_at`, `keep` and `confidence` of `RunCounts.of`."""
        confidences = samples["confidence"].dropna()
        return cls(
            planned=len(samples),
            made=int(samples["image_at"].notna().sum()),
            kept=int(samples["keep"].eq(True).sum()),
            rejected=int(samples["keep"].eq(False).sum()),
            labels=len(confidences),
            confidences=float(confidences.sum()),
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )

    @property
    def judged(self) -> int:
        """Number of samples that were kept or rejected."""
        return self.kept + self.rejected

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the labels; None without labels."""
        return self.confidences / self.labels if self.labels else None


@dataclass(frozen=True)
class RunCounts:
    """Counts of a run's samples.

    `generated` and `composed` are disjoint; `shards` are the numbers of shards of each. `classes`
    are by class name; a sample with several classes counts for each. `negative` are generated
    samples without a class. `reasons` are the numbers of rejections by reason. `picked` holds rows
    as handed in: of the samples made, the few with the lowest seeds per outcome, reason and class.
    """

    generated: Counts
    composed: Counts
    shards: tuple[int, int]
    classes: Mapping[str, Counts]
    negative: Counts
    reasons: Counter[str]
    picked: pd.DataFrame

    @classmethod
    def of(cls, samples: pd.DataFrame) -> RunCounts:
        """Count the samples of whole shards.

        `samples` has the plan's columns, and `first` (the first class, "" for none), `image_at`
        (missing if nothing was made), `keep` (missing without a verdict), `reason` and `confidence`
        (missing without a label).
        """
        composed = samples["kind"].eq("composed")
        by_class = samples.explode("classes").groupby("classes", sort=False)
        return cls(
            generated=Counts.of(samples[~composed]),
            composed=Counts.of(samples[composed]),
            shards=(
                samples.loc[~composed, "shard"].nunique(),
                samples.loc[composed, "shard"].nunique(),
            ),
            classes={str(name): Counts.of(rows) for name, rows in by_class},
            negative=Counts.of(samples[samples["kind"].eq("negative")]),
            reasons=Counter(samples.loc[samples["keep"].eq(False), "reason"]),
            picked=_few(samples[samples["image_at"].notna()]),
        )

    def __add__(self, other: RunCounts) -> RunCounts:
        names = {**self.classes, **other.classes}
        classes = {
            name: self.classes.get(name, Counts()) + other.classes.get(name, Counts())
            for name in names
        }
        picked = [each.picked for each in (self, other) if len(each.picked)]
        return RunCounts(
            self.generated + other.generated,
            self.composed + other.composed,
            (self.shards[0] + other.shards[0], self.shards[1] + other.shards[1]),
            classes,
            self.negative + other.negative,
            self.reasons + other.reasons,
            _few(pd.concat(picked, ignore_index=True)) if picked else self.picked,
        )

    @property
    def whole(self) -> Counts:
        """Counts of all samples."""
        return self.generated + self.composed


def _few(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the first `PICKED` samples by seed of each outcome, reason and class."""
    outcome = [samples["kind"].eq("composed"), "keep", "reason", "first"]
    ordered = samples.sort_values("seed", kind="stable")
    few = ordered.groupby(outcome, dropna=False, sort=False).head(PICKED)
    return few.sort_index().reset_index(drop=True)
