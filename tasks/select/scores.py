"""Scores: how much held-out networks trust a label (DiffuMask, ICCV 2023, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.metrics import IGNORE, least_iou

__all__ = ["LOSS_UNIT", "image_scores", "pixel_losses"]

LOSS_UNIT = 1 / 32  # of stored losses; 255 stands for 8 and more, probabilities under 0.0004

_TEMPERATURE = 0.1  # of the soft minimum over pixels; cleanlab's for segmentation


def pixel_losses(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Cross-entropy (B, H, W) of labels under softmax (B, C, H, W); 0 where the label is 255."""
    index = np.where(labels == IGNORE, 0, labels).astype(np.int64)[:, None]
    chosen = np.take_along_axis(probabilities, index, 1)[:, 0]
    return np.where(labels == IGNORE, 0, -np.log(np.maximum(chosen, 1e-12))).astype(np.float32)


def image_scores(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], classes: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """Trust in each label (B, H, W) given held-out softmax (B, C, H, W); columns in [0, 1].

    `agreement` is the IoU of label and prediction, the least over the row's label ids `classes`.
    For a row without classes it is the share of pixels predicted as background. `quality` is
    cleanlab's soft minimum over pixels of the label's own probability. Pixels of 255 do not count.
    """
    predicted = probabilities.argmax(1)
    counted = labels != IGNORE
    agreement = [least_iou(*each) for each in zip(predicted, labels, classes, strict=True)]
    own = np.exp(-pixel_losses(probabilities, labels)).reshape(len(labels), -1)
    weight = np.exp((1 - own) / _TEMPERATURE) * counted.reshape(len(labels), -1)
    quality = (weight * own).sum(1) / np.maximum(weight.sum(1), 1e-12)
    return pd.DataFrame({"agreement": agreement, "quality": quality})
