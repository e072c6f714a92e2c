"""Ranking is by class: a threshold per class, which each of its samples has to reach."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.schemas import Threshold
from tasks.select.ranking import Keep, Scores, pass_thresholds


def run_of(scores: list[float], classes: list[list[str]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"row": np.arange(len(scores)), "classes": classes, "score": np.array(scores, np.float64)}
    )


def kept(run: pd.DataFrame, keep: Keep, parts: int = 1) -> list[bool]:
    """Which rows stay, ranked in `parts` tables and judged one by one."""
    scores = Scores()
    for part in np.array_split(np.arange(len(run)), parts):
        scores.add(run.iloc[part])
    thresholds = scores.thresholds(keep)
    return [bool(pass_thresholds(run.iloc[[row]], thresholds)[0]) for row in range(len(run))]


@pytest.mark.parametrize(
    ("share", "count", "stay"), [(0.3, 10, 3), (0.29, 100, 29), (0.57, 100, 57), (1.0, 7, 7)]
)
def test_just_that_share_of_a_class_survives(share: float, count: int, stay: int) -> None:
    assert kept(run_of(list(np.linspace(0, 1, count)), [["car"]] * count), share) == [
        *[False] * (count - stay),
        *[True] * stay,
    ]


def test_it_goes_by_class_and_leaves_negatives_alone() -> None:
    run = run_of([0.9, 0.8, 0.2, 0.1, 0.0], [["car"], ["car"], ["tree"], ["tree"], []])
    assert kept(run, 0.5) == [True, False, True, False, True]


def test_it_never_empties_a_class_and_of_equals_the_first_stay() -> None:
    assert kept(run_of([0.5, 0.5], [["car"]] * 2), 0.1) == [True, False]
    assert kept(run_of([0.5] * 5 + [0.4, 0.6], [["car"]] * 7), 0.5) == [
        True,
        True,
        *[False] * 4,
        True,
    ]


def test_a_row_of_two_classes_has_to_rank_in_both() -> None:
    assert kept(run_of([0.5, 0.9, 0.1], [["car", "tree"], ["car"], ["tree"]]), 0.5) == [
        False,
        True,
        False,
    ]


def test_what_stands_out_below_its_class_is_found_without_a_share() -> None:
    low = [
        *np.linspace(0.10, 0.20, 20),
        0.01,
    ]  # a hard class: even its good labels are trusted little
    high = [*np.linspace(0.90, 0.95, 20), 0.5]
    run = run_of([*low, *high, 0.0], [["tree"]] * 21 + [["car"]] * 21 + [[]])
    assert [row for row, stays in enumerate(kept(run, "auto")) if not stays] == [20, 41]


def test_a_class_of_equal_scores_has_nothing_that_stands_out() -> None:
    assert all(kept(run_of([1.0] * 8 + [0.9], [["car"]] * 9), "auto"))
    assert Scores().thresholds("auto") == Scores().thresholds(0.5) == {}


def test_a_row_of_two_classes_may_not_stand_out_in_either() -> None:
    scores = [*np.linspace(0.90, 0.95, 9), *np.linspace(0.1, 0.2, 9), 0.15]
    run = run_of(scores, [["car"]] * 9 + [["tree"]] * 9 + [["car", "tree"]])
    assert kept(run, "auto") == [True] * 18 + [False]


@pytest.mark.parametrize("keep", [0.37, "auto"])
def test_it_does_not_matter_in_what_parts_a_run_is_ranked(keep: Keep) -> None:
    random = np.random.default_rng(0)
    names = [
        list(random.choice(["car", "tree", "dog"], random.integers(0, 4), replace=False))
        for _ in range(200)
    ]
    run = run_of(list(random.beta(8, 2, 200).round(2)), names)
    stay = kept(run, keep)
    assert stay == kept(run, keep, parts=7) == kept(run, keep, parts=200)
    for name in ("car", "tree", "dog"):  # as sorting the whole class has it
        of_class = run[[name in each and len(each) == 1 for each in names]]
        scores = of_class["score"].to_numpy()
        stays = np.array(stay)[of_class["row"]]
        assert scores[stays].min() >= scores[~stays].max(initial=0)


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="share 0"):
        Scores().thresholds(0)


def test_a_class_that_was_not_ranked_is_named() -> None:
    with pytest.raises(ValueError, match=r"no threshold for tree; delete ranking\.json"):
        pass_thresholds(run_of([0.5], [["car", "tree"]]), {"car": Threshold(score=0.1, row=3)})
