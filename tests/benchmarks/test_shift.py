"""Labels stay on their images on every path; `benchmarks.shift` measures more discs."""

import numpy as np
import pytest

from benchmarks.shift import disc_shifts, paths

COUNT = 120
LEFT_OUT = {
    "augment: paste",  # too few discs for its spread
    "augment: all together",
    "evaluate: a trained network",  # a training of minutes
}
PATHS = {name: path for name, path in paths(COUNT).items() if name not in LEFT_OUT}


@pytest.mark.parametrize("name", PATHS)
def test_labels_stay_within_a_twentieth_of_a_pixel_of_their_images(name: str) -> None:
    shifts = np.concatenate([disc_shifts(*maps) for maps in PATHS[name]()])
    assert len(shifts) > COUNT / 2
    assert np.abs(shifts.mean(0)).max() <= 0.05


def test_a_label_half_a_pixel_off_is_found() -> None:
    (soft, label), *_ = PATHS["augment: scale"]()
    moved = np.roll(label, (0, 1), (0, 1))
    assert (disc_shifts(soft, moved) - disc_shifts(soft, label))[:, 1] == pytest.approx(1, abs=0.1)
