"""Census: the samples of a run, counted, and a few of each outcome picked, however many there are.

It is taken of a group of samples at a time; the census of all is the sum of those of the groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import pandas as pd

__all__ = ["PICKED", "Census", "Counts"]

PICKED = 12  # samples of each outcome, reason and class; a page shows as many of an outcome at most


@dataclass(frozen=True)
class Counts:
    """How many of some samples are planned, made, kept and rejected; of the labels made, their
    confidences' sum.
    """

    planned: int = 0
    made: int = 0
    kept: int = 0
    rejected: int = 0
    labels: int = 0
    confidences: float = 0.0

    @classmethod
    def of(cls, samples: pd.DataFrame) -> Counts:
        """Count rows with `image_at`, `keep` and `confidence`, as `Census` has them."""
        kept, rejected = (int(samples["keep"].eq(verdict).sum()) for verdict in (True, False))
        known, made = samples["confidence"].dropna(), int(samples["image_at"].notna().sum())
        return cls(len(samples), made, kept, rejected, len(known), float(known.sum()))

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )

    @property
    def judged(self) -> int:
        """Kept or rejected."""
        return self.kept + self.rejected

    @property
    def confidence(self) -> float | None:
        """The labels' mean confidence; None without labels."""
        return self.confidences / self.labels if self.labels else None


@dataclass(frozen=True)
class Census:
    """Counts of the `generated` and the `composed` samples and of their shards; and by class, a
    sample of several counting for each; of generated ones without a class; and how many were
    rejected for each reason.

    `picked` has, of what is made, the few rows with the lowest seeds of each outcome, reason and
    class, as handed in.
    """

    generated: Counts
    composed: Counts
    shards: tuple[int, int]
    classes: Mapping[str, Counts]
    negative: Counts
    reasons: Counter[str]
    picked: pd.DataFrame

    @classmethod
    def of(cls, samples: pd.DataFrame) -> Census:
        """Take the census of whole shards: the plan's columns, `first` (of the classes, "" for
        none), `image_at`, ….

        `image_at` is missing where nothing is made, `keep` where nothing is judged, `confidence`
        without a label.
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

    def __add__(self, other: Census) -> Census:
        names = {**self.classes, **other.classes}
        picked = [each.picked for each in (self, other) if len(each.picked)]
        return Census(
            self.generated + other.generated,
            self.composed + other.composed,
            (self.shards[0] + other.shards[0], self.shards[1] + other.shards[1]),
            {
                name: self.classes.get(name, Counts()) + other.classes.get(name, Counts())
                for name in names
            },
            self.negative + other.negative,
            self.reasons + other.reasons,
            _few(pd.concat(picked, ignore_index=True)) if picked else self.picked,
        )

    @property
    def whole(self) -> Counts:
        """Of all samples."""
        return self.generated + self.composed


def _few(samples: pd.DataFrame) -> pd.DataFrame:
    outcome = [samples["kind"].eq("composed"), "keep", "reason", "first"]
    few = (
        samples.sort_values("seed", kind="stable")
        .groupby(outcome, dropna=False, sort=False)
        .head(PICKED)
    )
    return few.sort_index().reset_index(drop=True)
