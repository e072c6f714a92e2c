"""Foreground by colour: where attention is too coarse to see an edge, the object's colours against the ground's do."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["split_by_colour"]

SURE = 0.1  # scores nearer than this to 0 or 1 are certain; 0.25 and 0.05 gave label IoU 0.010 and 0.003 less


def split_by_colour(images: Tensor, foreground: Tensor) -> Tensor:
    """GrabCut (Rother et al. 2004) of `images` (B, H, W, 3) uint8 from `foreground` (B, H, W) in [0, 1], to 0 and 1.

    Colours are learnt from the sides of 0.5 and only uncertain pixels change side. An image whose foreground has no
    pixel on one of the sides comes back as it was.
    """
    split = [_split(*pair) for pair in zip(images.cpu().numpy(), foreground.cpu().numpy(), strict=True)]
    return torch.from_numpy(np.stack(split)).to(foreground)


def _split(image: NDArray[np.uint8], foreground: NDArray[np.float32]) -> NDArray[np.bool_]:
    before = foreground > 0.5
    if before.all() or not before.any():
        return np.asarray(before)
    mask = np.where(before, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[foreground < SURE] = cv2.GC_BGD
    mask[foreground > 1 - SURE] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # its clustering draws from a global generator; a label must not depend on those made before
    models = np.zeros((1, 65)), np.zeros((1, 65))  # the layout OpenCV asks for: ground's mixture and object's
    cv2.grabCut(np.ascontiguousarray(image), mask, (0, 0, 0, 0), *models, 1, cv2.GC_INIT_WITH_MASK)
    return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))
