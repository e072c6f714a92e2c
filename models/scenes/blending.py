"""Blending: an object takes on some of its surroundings' colour statistics, and is laid over them
by its alpha.

The idea of RainNet's region-aware instance normalisation (Ling et al. 2021), used by Free-Mask, in
pixel space: mean and spread of the object move towards those of the ground around it. Geometry and
ground stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models.scenes.cutout import Cutout, Floats

__all__ = ["STRENGTH", "harmonise", "paste"]

# How far an object's Lab statistics move towards its surroundings': light may change by a fifth,
# and colour, by which classes and prompts are told apart, by a twentieth. Judged by eye on scenes
# of the drawn world.
STRENGTH = (0.2, 0.05, 0.05)
_MOST_STRETCH = 1.5  # an even ground must not flatten an object, nor a busy one make it garish


def harmonise(
    cutout: Cutout, surroundings: NDArray[np.uint8], strength: tuple[float, float, float] = STRENGTH
) -> Cutout:
    """The cutout with mean and deviation of L, a and b moved by `strength` (0..1) towards
    `surroundings` (N, 3) RGB.
    """
    if not len(surroundings) or not cutout.solid.any():
        return cutout
    lab, ground = _lab(cutout.colour), _lab(surroundings[None].astype(np.float32))[0]
    own = lab[cutout.solid]
    amount = np.array(strength, np.float32)
    stretch = np.clip((ground.std(0) + 1) / (own.std(0) + 1), 1 / _MOST_STRETCH, _MOST_STRETCH)
    centre = own.mean(0) + amount * (ground.mean(0) - own.mean(0))
    moved = centre + (lab - own.mean(0)) * (1 + amount * (stretch - 1))
    return replace(cutout, colour=_rgb(moved.astype(np.float32)))


def _lab(rgb: Floats) -> Floats:
    return np.asarray(cv2.cvtColor(rgb / np.float32(255), cv2.COLOR_RGB2LAB))


def _rgb(lab: Floats) -> Floats:
    return np.asarray(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255, 0, 255), np.float32)


def paste(image: NDArray[np.uint8], cutout: Cutout, top: int, left: int) -> None:
    """Lay the cutout over `image` (H, W, 3), in place; pixels where its alpha is 0 keep their
    bytes.
    """
    window = image[top : top + cutout.alpha.shape[0], left : left + cutout.alpha.shape[1]]
    alpha = cutout.alpha[..., None]
    mixed = np.round(alpha * cutout.colour + (1 - alpha) * window).astype(np.uint8)
    np.copyto(window, mixed, where=alpha > 0)
