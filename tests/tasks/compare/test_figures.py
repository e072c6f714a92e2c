"""Segmenters side by side: classes, intervals, and the images they differ about."""

from typing import Any

import numpy as np
import pytest

from tasks.compare.charts import intervals, reliability_points
from tasks.compare.figures import (
    check_one_set,
    class_rows,
    contender,
    differences,
    most_different,
    shown,
)
from tasks.evaluate.bootstrap import LEAST_IMAGES
from tasks.evaluate.measure import HITS, PREDICTED, TRUTH, Counts

KNOWN = np.array([True, True])


def of(letter: str, miou: float, **iou: float | None) -> dict[str, Any]:
    return {"letter": letter, "miou": miou, "iou": iou}


def counted(*hits: int) -> Counts:
    """Counts of images of 100 pixels per class, of which these are predicted right."""
    counts = np.zeros((len(hits), 3, 2), np.int64)
    counts[:, HITS] = np.array(hits)[:, None]
    counts[:, TRUTH] = counts[:, PREDICTED] = 100
    return counts


def test_the_mean_comes_first_then_what_lost_most() -> None:
    rows = class_rows([of("A", 0.5, car=0.6, bus=0.4), of("B", 0.6, car=0.5, bus=0.7)])
    assert [row["class"] for row in rows] == ["mean", "car", "bus"]
    assert [row["difference"] for row in rows] == pytest.approx([0.1, -0.1, 0.3])


def test_a_class_that_one_of_them_lacks_has_no_difference_and_comes_last() -> None:
    rows = class_rows([of("A", 0.5, bus=None, car=0.6), of("B", 0.6, bus=0.1, car=0.6)])
    assert [(row["class"], row["difference"]) for row in rows[1:]] == [("car", 0.0), ("bus", None)]


def test_of_three_the_class_that_differs_most_comes_first() -> None:
    rows = class_rows(
        [
            of("A", 0.5, car=0.6, bus=0.4, tree=None),
            of("B", 0.5, car=0.6, bus=0.7, tree=None),
            of("C", 0.5, car=0.5, bus=0.5, tree=None),
        ]
    )
    assert rows[1] == {"class": "bus", "A": 0.4, "B": 0.7, "C": 0.5}
    assert [row["class"] for row in rows] == ["mean", "bus", "car", "tree"]


def test_evaluations_of_different_sets_are_not_compared() -> None:
    found = [{"set": "squares", "fingerprint": letter * 64} for letter in "aab"]
    with pytest.raises(
        ValueError,
        match=r"different sets, squares .a{12}. and squares .b{12}.; evaluate all on one set",
    ):
        check_one_set(found)
    check_one_set(found[:2])


def test_differences_are_to_the_first_and_have_an_interval() -> None:
    base = counted(*[50, 60] * 10)
    found = differences([base, counted(*[70, 80] * 10), base], KNOWN)
    assert found[0] is None and found[1] and found[2]
    assert 0 < found[1]["low"] < found[1]["difference"] < found[1]["high"]
    assert found[2] == {"difference": 0, "low": 0, "high": 0}
    assert shown(found[2]) == "+0.0 (+0.0 to +0.0)" and shown(None) == "—"


def test_few_images_have_no_interval() -> None:
    few = counted(*[50] * (LEAST_IMAGES - 1))
    assert differences([few, few], KNOWN) == [None, None]


def test_the_images_that_differ_most_are_those_shown() -> None:
    counts = [counted(50, 50, 50, 50), counted(50, 99, 55, 10), counted(50, 60, 50, 50)]
    assert most_different(counts, KNOWN, 8) == [1, 3, 2]
    assert most_different(counts, KNOWN, 2) == [1, 3]


def test_an_image_without_labels_differs_in_nothing() -> None:
    empty = np.zeros((2, 3, 2), np.int64)
    assert most_different([empty, empty], KNOWN, 8) == []


def test_a_model_is_named_by_its_config() -> None:
    evaluation = {"miou": 0.5, "pixel_accuracy": 0.6, "calibration_error": 0.1, "iou": {}}
    meta = {"checkpoint": "v-1", "version": "v", "recipe": {"config": "/configs/tiny.py"}}
    found = contender(1, meta, {**evaluation, "reliability": []}, {"parameters": 3})
    assert (found["letter"], found["model"], found["checkpoint"]) == ("B", "tiny", "v-1")


def test_reliability_is_accuracy_by_confidence() -> None:
    found = reliability_points([[10.0, 0.0, 30.0], [4.0, 0.0, 27.0], [2.0, 0.0, 30.0]])
    assert found == [(0.4, 0.2, 0.25), (0.9, 1.0, 0.75)]


def test_the_axis_of_intervals_shows_zero_and_all_of_them() -> None:
    difference = {"difference": 0.02, "low": -0.01, "high": 0.05}
    axis = intervals(
        [{"letter": "A", "difference": None}, {"letter": "B", "difference": difference}]
    )
    assert axis is not None and axis.zero == 0.5
    (letter, low, high, point) = axis.bars[0]
    assert letter == "B" and 0 < low < axis.zero < point < high < 1
    assert (0.5, "0") in axis.ticks
    assert intervals([{"letter": "A", "difference": None}]) is None
