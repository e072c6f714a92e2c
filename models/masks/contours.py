"""Contours made whole: small holes of an object filled, specks far too small for one left to
nobody.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.masks.labels import IGNORE

__all__ = ["tidy"]

# Shares of the image. On 1,900 generated pictures of one, two and three objects both together took
# label IoU against the oracle from 0.917, 0.803, 0.740 to 0.919, 0.807, 0.745; holes of 0.001 to
# 0.01 and specks of 0.001 to 0.005 differ by 0.0015 at most.
HOLE, SPECK = 0.003, 0.003


def tidy(labels: Tensor, *, hole: float = HOLE, speck: float = SPECK) -> Tensor:
    """Label maps (B, H, W) uint8 with classes' small holes filled and their specks 255, for each
    image by itself.

    A hole is a piece of anything else, smaller than `hole` of the image, with one class alone all
    around it. A speck is a piece smaller than `speck` of a class that has a larger one, so that no
    class vanishes.
    """
    return torch.from_numpy(
        np.stack([_tidied(label, hole, speck) for label in labels.cpu().numpy()])
    ).to(labels.device)


def _tidied(label: NDArray[np.uint8], hole: float, speck: float) -> NDArray[np.uint8]:
    found = label.copy()
    for class_id in np.unique(label):
        if class_id not in (0, IGNORE):
            pieces, areas = _pieces(found == class_id, 8)
            small = np.flatnonzero(areas < min(speck * label.size, areas.max(initial=0)))
            found[np.isin(pieces, 1 + small)] = IGNORE
            pieces, areas = _pieces(found != class_id, 4)
            for piece in 1 + np.flatnonzero(areas < hole * label.size):
                inside = pieces == piece
                around = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > inside
                if (found[around] == class_id).all():
                    found[inside] = class_id
    return found


def _pieces(
    mask: NDArray[np.bool_], connectivity: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each pixel's piece of `mask`, from 1 on, 0 outside; and the pieces' areas."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    return np.asarray(pieces, np.int32), np.asarray(stats[1:, cv2.CC_STAT_AREA], np.int32)
