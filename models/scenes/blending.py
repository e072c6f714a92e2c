"""Blending: adapt an object's colours to its surroundings, and paste it by its alpha.

The idea of RainNet's region-aware instance normalisation (Ling et al. 2021), used by Free-Mask, in
pixel space: mean and standard deviation of the object's colours move towards those of the
background around it. Geometry and background do not change.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models.scenes.cutout import Cutout, Floats

__all__ = ["STRENGTH", "harmonise", "paste"]

# How far an object's Lab statistics move towards those of its surroundings: lightness by a fifth,
# and colour, which tells classes apart, by a twentieth. Judged by eye on drawn scenes.
STRENGTH = (0.2, 0.05, 0.05)
_MOST_STRETCH = 1.5  # limits the effect of very even and very busy backgrounds on contrast


def harmonise(
    cutout: Cutout, surroundings: NDArray[np.uint8], strength: tuple[float, float, float] = STRENGTH
) -> Cutout:
    """Return the cutout with its Lab statistics moved by `strength` towards `surroundings`.

    `strength` is a share in [0, 1] for each of L, a and b; `surroundings` are RGB colours (N, 3).
    """
    if not len(surroundings) or not cutout.solid.any():
        return cutout
    lab = _lab(cutout.colour)
    around = _lab(surroundings[None].astype(np.float32))[0]
    own = lab[cutout.solid]
    amount = np.array(strength, np.float32)
    stretch = np.clip((around.std(0) + 1) / (own.std(0) + 1), 1 / _MOST_STRETCH, _MOST_STRETCH)
    centre = own.mean(0) + amount * (around.mean(0) - own.mean(0))
    moved = centre + (lab - own.mean(0)) * (1 + amount * (stretch - 1))
    return replace(cutout, colour=_rgb(moved.astype(np.float32)))


def _lab(rgb: Floats) -> Floats:
    return np.asarray(cv2.cvtColor(rgb / np.float32(255), cv2.COLOR_RGB2LAB))


def _rgb(lab: Floats) -> Floats:
    return np.asarray(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255, 0, 255), np.float32)


def paste(image: NDArray[np.uint8], cutout: Cutout, top: int, left: int) -> None:
    """Paste the cutout into `image` (H, W, 3), in place; where its alpha is 0, nothing changes."""
    window = image[top : top + cutout.alpha.shape[0], left : left + cutout.alpha.shape[1]]
    alpha = cutout.alpha[..., None]
    mixed = np.round(alpha * cutout.colour + (1 - alpha) * window).astype(np.uint8)
    np.copyto(window, mixed, where=alpha > 0)
