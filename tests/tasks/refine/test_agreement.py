"""The mask that is read back says whether an image shows its label map."""

import numpy as np
import pandas as pd
import pytest

from infra.settings import SelectSettings
from tasks.refine.agreement import agreement_rows
from tasks.select.judge import judge_rows

IDS = {"car": 1, "bus": 2}


def measured(label: np.ndarray, read: np.ndarray, *classes: str) -> dict[str, float]:
    rows = pd.DataFrame({"row": [0], "id": ["0"], "classes": [list(classes)]})
    (found,) = agreement_rows(label[None], read[None], rows, IDS).to_dict("records")
    return {str(name): value for name, value in found.items()}


def halves() -> np.ndarray:
    """A car in the upper left quarter, a bus in the lower left one."""
    label = np.zeros((8, 8), np.uint8)
    label[:4, :4] = 1
    label[4:, :4] = 2
    return label


def test_a_mask_that_comes_back_is_trusted_fully() -> None:
    found = measured(halves(), halves(), "car", "bus")
    assert (found["confidence"], found["consistency"]) == (1.0, 1.0)
    assert (found["coverage"], found["ignored"]) == (0.5, 0.0)


def test_confidence_is_that_of_the_worst_class_and_consistency_that_of_all_pixels() -> None:
    read = halves()
    read[6:] = 0  # half of the bus
    found = measured(halves(), read, "car", "bus")
    assert found["confidence"] == 0.5
    assert found["consistency"] == pytest.approx(1 - 8 / 64)


def test_ignored_pixels_do_not_count() -> None:
    label, read = halves(), halves()
    label[6:] = 255
    read[6:] = 1
    found = measured(label, read, "car", "bus")
    assert (found["confidence"], found["consistency"], found["ignored"]) == (1.0, 1.0, 0.25)


def test_a_map_without_classes_is_read_back_as_background() -> None:
    empty, read = np.zeros((8, 8), np.uint8), halves()
    assert measured(empty, empty)["confidence"] == 1.0
    assert measured(empty, read)["confidence"] == measured(empty, read)["consistency"] == 0.5


def test_selection_rejects_an_object_where_the_map_has_none() -> None:
    empty, read = np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8)
    read[1] = halves()
    rows = pd.DataFrame({"row": [0, 1], "id": ["0", "1"], "classes": [[], []], "kind": "negative"})
    table = agreement_rows(empty, read, rows, IDS).merge(rows[["row", "classes", "kind"]], on="row")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    verdicts = judge_rows(images, empty, table, SelectSettings(), IDS)
    assert verdicts["reason"].tolist() == ["", "confidence"]
    unmeasured = judge_rows(images, empty, table.drop(columns="measured"), SelectSettings(), IDS)
    assert unmeasured["keep"].all()
