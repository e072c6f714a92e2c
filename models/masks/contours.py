"""Contours: small holes in objects are filled, and specks too small for an object become 255."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.masks.labels import IGNORE

__all__ = ["tidy"]

# Shares of the image. On 1,900 generated images of one, two and three objects both together took
# label IoU against the oracle from 0.917, 0.803, 0.740 to 0.919, 0.807, 0.745; holes of 0.001 to
# 0.01 and specks of 0.001 to 0.005 differ by 0.0015 at most.
HOLE, SPECK = 0.003, 0.003


def tidy(labels: Tensor, *, hole: float = HOLE, speck: float = SPECK) -> Tensor:
    """Fill small holes of label maps (B, H, W) uint8 and set specks to 255, per image.

    A hole is a region of other labels, smaller than `hole` of the image, that one class surrounds.
    A speck is a region of a class smaller than `speck` of the image, if the class has a larger one,
    so no class vanishes.
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
    """Return the number of each pixel's piece of `mask`, 0 outside, and the pieces' areas."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    return np.asarray(pieces, np.int32), np.asarray(stats[1:, cv2.CC_STAT_AREA], np.int32)
