"""Figures against values that can be worked out by hand."""

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from models import metrics

TRUTH = np.array([[[0, 0, 1], [1, 2, 255]]], np.uint8)
SAID = np.array([[[0, 1, 1], [1, 0, 2]]], np.uint8)
Labels = NDArray[np.integer[Any]]


def slow_iou(said: Labels, truth: Labels, number: int) -> float:
    pairs = [(s, t) for s, t in zip(said.ravel(), truth.ravel(), strict=True) if t != 255]
    both = sum(s == t == number for s, t in pairs)
    either = sum(number in (s, t) for s, t in pairs)
    return both / either if either else float("nan")


def test_iou_is_shared_over_joined_pixels_and_ignores_255() -> None:
    iou = metrics.class_iou(metrics.confusion_matrix(SAID, TRUTH, 4))
    assert iou[:3] == pytest.approx([1 / 3, 2 / 3, 0])
    assert np.isnan(iou[3])
    assert metrics.mean_iou(iou) == pytest.approx(1 / 3)


def test_the_entropy_is_0_for_certain_and_1_for_even_predictions() -> None:
    columns = [[1 / 3, 1 / 3, 1 / 3], [0, 1, 0], [0.5, 0.5, 0]]
    probabilities = np.array(columns, np.float32).T[:, None]
    assert metrics.entropy(probabilities)[0] == pytest.approx([1, 0, np.log(2) / np.log(3)])


def test_iou_equals_an_obvious_recount_on_random_maps() -> None:
    random = np.random.default_rng(0)
    said, truth = random.integers(0, 5, (3, 9, 7)), random.choice([0, 1, 2, 3, 4, 255], (3, 9, 7))
    iou = metrics.class_iou(metrics.confusion_matrix(said, truth, 5))
    assert iou == pytest.approx([slow_iou(said, truth, c) for c in range(5)])


def test_confusions_of_batches_add_up() -> None:
    random = np.random.default_rng(1)
    said, truth = random.integers(0, 3, (2, 8, 4, 4), dtype=np.uint8)
    whole = metrics.confusion_matrix(said, truth, 3)
    parts = [metrics.confusion_matrix(said[i : i + 3], truth[i : i + 3], 3) for i in range(0, 8, 3)]
    assert (cast(Any, sum(parts)) == whole).all()


def test_accuracy_is_the_share_of_right_pixels() -> None:
    assert metrics.pixel_accuracy(metrics.confusion_matrix(SAID, TRUTH, 3)) == pytest.approx(3 / 5)


def test_a_set_without_labelled_pixels_has_no_figures() -> None:
    empty = metrics.confusion_matrix(SAID, np.full_like(TRUTH, 255), 3)
    assert np.isnan(
        [metrics.pixel_accuracy(empty), metrics.mean_iou(metrics.class_iou(empty))]
    ).all()


@pytest.mark.parametrize(("said", "truth", "who"), [(3, 0, "prediction"), (0, 3, "truth")])
def test_an_id_out_of_range_is_named(said: int, truth: int, who: str) -> None:
    with pytest.raises(ValueError, match=f"{who} holds class id 3, but there are 3 classes"):
        metrics.confusion_matrix(np.full((2, 2), said), np.full((2, 2), truth), 3)


def test_maps_of_different_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) against \(3, 2\)"):
        metrics.confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


def test_unseen_classes_pull_the_harmonic_mean_down() -> None:
    seen, unseen, harmonic = metrics.seen_unseen(np.array([0.9, 0.7, 0.2, np.nan]), {2, 3})
    assert (seen, unseen) == pytest.approx((0.8, 0.2))
    assert harmonic == pytest.approx(2 * 0.8 * 0.2 / 1.0)
    assert metrics.harmonic_mean(0.0, 0.0) == 0


def test_a_model_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    probabilities = np.zeros((1, 2, 1, 10), np.float32)
    probabilities[:, 0], probabilities[:, 1] = 0.7, 0.3
    truth = np.array([[[0] * 7 + [1] * 3]])
    sums = metrics.calibration_bins(probabilities, truth)
    assert metrics.expected_calibration_error(sums) == pytest.approx(0, abs=1e-6)


def test_calibration_error_is_the_gap_and_batches_add_up() -> None:
    sure = np.zeros((2, 2, 2, 2), np.float32)
    sure[:, 0] = 1
    truth = np.array([[[0, 0], [0, 0]], [[1, 1], [1, 255]]])
    sums = sum(metrics.calibration_bins(sure[i : i + 1], truth[i : i + 1]) for i in range(2))
    assert metrics.expected_calibration_error(np.asarray(sums)) == pytest.approx(3 / 7)


def test_the_iou_of_masks_is_intersection_over_union_and_0_of_nothing() -> None:
    left, middle = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert metrics.mask_iou(left, middle) == pytest.approx(1 / 3)
    assert metrics.mask_iou(left, left) == 1
    assert metrics.mask_iou(left ^ left, middle ^ middle) == 0
    with pytest.raises(ValueError, match=r"\(4,\) against \(2,\)"):
        metrics.mask_iou(left, middle[:2])


def test_kernel_distance_is_zero_on_average_for_sets_of_one_distribution() -> None:
    rng = np.random.default_rng(0)
    same = [metrics.kernel_distance(*rng.normal(size=(2, 200, 16))) for _ in range(20)]
    assert abs(np.mean(same)) < 2 * np.std(same) / np.sqrt(20) + 1e-3
    shifted = metrics.kernel_distance(
        rng.normal(size=(200, 16)), rng.normal(0.5, 1, size=(200, 16))
    )
    assert shifted > 10 * np.std(same)


def test_kernel_distance_of_two_points_is_that_of_the_kernel() -> None:
    a, b = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert metrics.kernel_distance(a, b) == pytest.approx(2 * 1.5**3 - 2 * 1.0)
