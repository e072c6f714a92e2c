"""Labels stay on their images on every path; `benchmarks.shift` measures more discs."""

from functools import cache

import cv2
import numpy as np
import pytest

from benchmarks.shift import SIDE, Bytes, Floats, coverage, disc_shifts, paths, shifts_of

COUNT = 120
PATHS = paths(COUNT)
TRAINED = "evaluate: a trained network"  # a training of minutes
MEASURED = [name for name in PATHS if name != TRAINED]


@cache
def maps(name: str) -> list[tuple[Floats, Bytes]]:
    return list(PATHS[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_labels_stay_within_a_twentieth_of_a_pixel_of_their_images(name: str) -> None:
    shifts = shifts_of(iter(maps(name)))
    assert len(shifts) > COUNT / 2
    assert np.abs(shifts.mean(0)).max() <= 0.05


def moved_right(soft: Floats, pixels: float) -> Floats:
    view = np.array([[1, 0, pixels], [0, 1, 0]])
    return np.asarray(cv2.warpAffine(soft.astype(np.float64), view, soft.shape[::-1]), np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_a_quarter_of_a_pixel_is_found_on_every_path(name: str) -> None:
    shifts = shifts_of((moved_right(soft, 0.25), label) for soft, label in maps(name))
    assert len(shifts) > COUNT / 2
    assert shifts.mean(0) == pytest.approx([0, -0.25], abs=0.05)


def test_a_label_one_pixel_off_is_found() -> None:
    (soft, label), *_ = maps("augment: scale")
    moved = np.roll(label, (0, 1), (0, 1))
    assert (disc_shifts(soft, moved) - disc_shifts(soft, label))[:, 1] == pytest.approx(1, abs=0.1)


def test_overlapping_discs_of_two_greys_are_not_measured() -> None:
    left, right = (coverage((SIDE, SIDE), [64.0, middle], 15.0) for middle in (50.0, 72.0))
    label = (np.maximum(left, right) > 0.5).astype(np.uint8)
    assert len(disc_shifts(100 * np.maximum(left, right), label)) == 1
    assert len(disc_shifts(100 * np.maximum(left, 0.8 * right), label)) == 0
