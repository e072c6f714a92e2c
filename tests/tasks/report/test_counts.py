"""Counts of a run: those of its groups add up to those of all samples at once."""

from __future__ import annotations

from dataclasses import astuple
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.report.counts import PICKED, RunCounts
from tasks.report.examples import choose

CLASSES = ("car", "fish", "tree")
SHARD = 10


@pytest.fixture(scope="module")
def samples() -> pd.DataFrame:
    """600 random samples with up to two classes, the last 100 composed.

    Each is made or not, judged or not, and labelled or not.
    """
    draw: Any = np.random.default_rng(3)
    rows = []
    for row in range(600):
        names = list(draw.choice(CLASSES, draw.integers(3), replace=False))
        keep = draw.choice([True, False, None])
        rows.append(
            {
                "row": row,
                "shard": row // SHARD,
                "seed": int(draw.integers(1 << 40)),
                "classes": names,
                "first": names[0] if names else "",
                "kind": "composed" if row >= 500 else "single" if names else "negative",
                "image_at": draw.choice(["somewhere", None]),
                "confidence": draw.choice([0.25, 0.75, np.nan]),
                "keep": keep,
                "reason": draw.choice(["area", "rank"]) if keep is False else "",
            }
        )
    return pd.DataFrame(rows).astype({"keep": object})


@pytest.fixture(scope="module")
def summed(samples: pd.DataFrame) -> RunCounts:
    return reduce(
        add, (RunCounts.of(samples[at : at + 3 * SHARD]) for at in range(0, 600, 3 * SHARD))
    )


def test_counts_of_groups_add_up(samples: pd.DataFrame, summed: RunCounts) -> None:
    whole = RunCounts.of(samples)
    assert (summed.reasons, summed.shards) == (whole.reasons, (50, 10))
    assert (
        astuple(summed.whole) == pytest.approx(astuple(whole.whole)) and whole.whole.planned == 600
    )
    assert (
        astuple(summed.negative) == pytest.approx(astuple(whole.negative))
        and whole.negative.planned > 100
    )
    assert summed.classes.keys() == whole.classes.keys() == set(CLASSES)
    for name, counts in summed.classes.items():
        named = samples[[name in names for names in samples["classes"]]]
        assert counts.planned == len(named) and counts.judged == named["keep"].notna().sum()
        assert counts.confidence == pytest.approx(named["confidence"].mean())


def test_examples_picked_from_groups_are_those_of_all_samples(
    samples: pd.DataFrame, summed: RunCounts
) -> None:
    assert len(summed.picked) < len(samples)
    for outcome, by in ((True, "first"), (False, "reason")):
        shown, expected = (
            choose(
                each[
                    each["keep"].eq(outcome)
                    & each["image_at"].notna()
                    & each["kind"].ne("composed")
                ],
                by,
                PICKED,
            )
            for each in (summed.picked, samples)
        )
        assert shown["row"].tolist() == expected["row"].tolist() and len(shown) == PICKED


def test_counts_of_nothing_add_nothing(samples: pd.DataFrame) -> None:
    nothing, some = RunCounts.of(samples[:0]), RunCounts.of(samples[:30])
    for each in (nothing + some, some + nothing):
        assert each.whole == some.whole
        assert each.classes == some.classes
        assert each.picked.equals(some.picked)
    assert (nothing + nothing).whole.planned == 0 and nothing.whole.confidence is None
