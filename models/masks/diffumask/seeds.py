"""Seeds for AffinityNet: where a class's attention surely is its object, where surely ground
(DiffuMask §3.3).

Two ground scores are read off each image's own histogram: a strict one that leaves a small, sure
object, and a permissive one under which everything is ground. Between them nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.masks.diffumask.crf import Kernel, binary_crf, two_label_certainty
from models.masks.labels import IGNORE

__all__ = ["SeedRule", "Thresholds", "seed_labels", "seed_thresholds"]

_BIN = 0.01  # of the histogram whose fullest bin is where the thresholds start from
_STEP = 0.03  # by which they move on while a side is too small
_FLOOR, _CEILING = 0.3, 0.75  # where they stop moving
_KERNELS = (Kernel(3, 3), Kernel(9, 60, 10))
_CERTAINTY = two_label_certainty(0.7, 21)


class SeedRule(NamedTuple):
    """Where to look for the split, in units of the map's maximum; DiffuMask's figures for most
    classes of VOC.

    `window` is searched for the fullest bin; each side has to have `least` of the image; `strict`
    and `permissive` are added to the two ground scores.
    """

    window: tuple[float, float] = (0.45, 0.53)
    least: float = 0.06
    strict: float = -0.04
    permissive: float = 0.02


PUBLISHED_RULE = SeedRule()


class Thresholds(NamedTuple):
    """Ground scores (B,): above `strict` is surely object, below `permissive` surely ground."""

    strict: Tensor
    permissive: Tensor


def seed_thresholds(maps: Tensor, rule: SeedRule = PUBLISHED_RULE) -> Thresholds:
    """The two ground scores of each of `maps` (B, H, W) in [0, 1], whose maximum is 1.

    A split starts at the fullest bin of the window. The strict score is the mean above the split,
    the permissive one the mean below it; while a score leaves its side too small, the split moves
    away, first down, then up.
    """
    flat = maps.float().flatten(1)
    split = _fullest_bin(flat, rule.window)[:, None]
    split = _moved(
        split, -_STEP, lambda s: (flat > _mean(flat, flat > s)).float().mean(1), rule.least, _FLOOR
    )
    split = _moved(
        split, _STEP, lambda s: (flat < _mean(flat, flat < s)).float().mean(1), rule.least, _CEILING
    )
    strict, permissive = _mean(flat, flat > split)[:, 0], _mean(flat, flat < split)[:, 0]
    return Thresholds(strict + rule.strict, permissive + rule.permissive)


def seed_labels(images: Tensor, maps: Tensor, rule: SeedRule = PUBLISHED_RULE) -> Tensor:
    """Object (1), ground (0) or unsaid (255) of each pixel, (B, H, W) uint8, of images (B, H, W, 3)
    uint8.

    Both thresholds' masks of `maps` (B, H, W) follow the image's edges by a CRF; what the strict
    one keeps is object, and what the permissive one leaves out is ground.
    """
    masks = torch.stack([maps > score[:, None, None] for score in seed_thresholds(maps, rule)], 1)
    certain = torch.where(masks, _CERTAINTY, 1 - _CERTAINTY)
    strict, permissive = (binary_crf(images, certain, kernels=_KERNELS) > 0.5).unbind(1)
    label = torch.full_like(images[..., 0], IGNORE)
    label[~permissive] = 0
    label[strict] = 1
    return label


def _fullest_bin(flat: Tensor, window: tuple[float, float]) -> Tensor:
    """Lower edge (B,) of the bin of the window that holds most values of `flat` (B, N), the lowest
    of equals.
    """
    edges = (
        torch.arange(round((window[1] - window[0]) / _BIN), device=flat.device) * _BIN + window[0]
    )
    counts = torch.stack([((flat >= low) & (flat < low + _BIN)).sum(1) for low in edges], 1)
    return edges[counts.argmax(1)]


def _moved(
    split: Tensor, step: float, side: Callable[[Tensor], Tensor], least: float, end: float
) -> Tensor:
    """`split` (B, 1) moved by `step` wherever `side` of it, a share of the image, is under `least`,
    up to `end`.
    """
    while True:
        short = (side(split) < least) & ((end - split[:, 0]) * step >= 0)
        if not short.any():
            return split
        split = split + step * short[:, None]


def _mean(flat: Tensor, chosen: Tensor) -> Tensor:
    """Mean (B, 1) of the chosen values; where none is chosen, the mean of all."""
    chosen = chosen | ~chosen.any(1, keepdim=True)
    return (flat * chosen).sum(1, keepdim=True) / chosen.sum(1, keepdim=True)
