"""Agreement: how far the mask of a drawn image comes back as the label map it was drawn from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.metrics import IGNORE, least_iou

__all__ = ["agreement_rows"]


def agreement_rows(
    labels: NDArray[np.uint8], read: NDArray[np.uint8], rows: pd.DataFrame, ids: Mapping[str, int]
) -> pd.DataFrame:
    """Measures of each image, from its label map and the one read back, both (n, H, W) uint8.

    `ids` gives the label id of each class. Pixels of 255 in the label map do not count. Columns:
    `row`, `id`; `confidence`, the least IoU of the classes that the map shows, and for a map
    without any the share of pixels read as background; `consistency`, the share of pixels whose
    class comes back; both in [0, 1]. `coverage` and `ignored`, the shares of the image that have a
    class and that are 255; and `measured`, True: both hold for images without classes too.
    """
    shown = [[ids[name] for name in names] for names in rows["classes"]]
    counted = labels != IGNORE
    pixels = np.maximum(counted.sum((1, 2)), 1)
    columns = {
        "confidence": [least_iou(*each) for each in zip(read, labels, shown, strict=True)],
        "consistency": ((read == labels) & counted).sum((1, 2)) / pixels,
        "coverage": ((labels > 0) & counted).mean((1, 2)),
        "ignored": 1 - counted.mean((1, 2)),
        "measured": True,
    }
    return rows[["row", "id"]].reset_index(drop=True).assign(**columns)
