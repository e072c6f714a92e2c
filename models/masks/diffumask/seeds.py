"""Seeds for AffinityNet: pixels that are certainly object or background (DiffuMask §3.3).

Each image's histogram gives two thresholds. Above the strict one is object, below the permissive
one is background. Between them the label is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.masks.diffumask.crf import Kernel, binary_crf, two_label_certainty
from models.masks.labels import IGNORE

__all__ = ["SeedRule", "Thresholds", "seed_labels", "seed_thresholds"]

_BIN = 0.01  # width of the histogram's bins; the thresholds start from the fullest bin
_STEP = 0.03  # by which they move while a side is too small
_FLOOR, _CEILING = 0.3, 0.75  # limits of the movement
_KERNELS = (Kernel(3, 3), Kernel(9, 60, 10))
_CERTAINTY = two_label_certainty(0.7, 21)


class SeedRule(NamedTuple):
    """Where to look for the split, in units of the map's maximum.

    The defaults are DiffuMask's for most classes of VOC. `window` is searched for the fullest bin;
    each side needs `least` of the image; `strict` and `permissive` are added to the two thresholds.
    """

    window: tuple[float, float] = (0.45, 0.53)
    least: float = 0.06
    strict: float = -0.04
    permissive: float = 0.02


PUBLISHED_RULE = SeedRule()


class Thresholds(NamedTuple):
    """Thresholds (B,): above `strict` is object, below `permissive` is background."""

    strict: Tensor
    permissive: Tensor


def seed_thresholds(maps: Tensor, rule: SeedRule = PUBLISHED_RULE) -> Thresholds:
    """Return the two thresholds of each of `maps` (B, H, W) in [0, 1], whose maximum is 1.

    The split starts at the fullest bin of the window. The strict threshold is the mean above the
    split, the permissive one the mean below. While a threshold leaves its side too small, the split
    moves away, first down, then up.
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
    """Return object (1), background (0) or unknown (255) per pixel, (B, H, W) uint8.

    The masks of `maps` (B, H, W) at both thresholds follow the edges of `images` (B, H, W, 3) uint8
    by a CRF. Pixels in the strict mask are object; pixels outside the permissive one background.
    """
    masks = torch.stack([maps > score[:, None, None] for score in seed_thresholds(maps, rule)], 1)
    certain = torch.where(masks, _CERTAINTY, 1 - _CERTAINTY)
    strict, permissive = (binary_crf(images, certain, kernels=_KERNELS) > 0.5).unbind(1)
    label = torch.full_like(images[..., 0], IGNORE)
    label[~permissive] = 0
    label[strict] = 1
    return label


def _fullest_bin(flat: Tensor, window: tuple[float, float]) -> Tensor:
    """Return the lower edge (B,) of the window's fullest bin of `flat` (B, N), lowest of equals."""
    edges = (
        torch.arange(round((window[1] - window[0]) / _BIN), device=flat.device) * _BIN + window[0]
    )
    counts = torch.stack([((flat >= low) & (flat < low + _BIN)).sum(1) for low in edges], 1)
    return edges[counts.argmax(1)]


def _moved(
    split: Tensor, step: float, side: Callable[[Tensor], Tensor], least: float, end: float
) -> Tensor:
    """Return `split` (B, 1) moved by `step`, up to `end`, until `side` has at least `least`."""
    while True:
        short = (side(split) < least) & ((end - split[:, 0]) * step >= 0)
        if not short.any():
            return split
        split = split + step * short[:, None]


def _mean(flat: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean (B, 1) of the chosen values; of all where none is chosen."""
    chosen = chosen | ~chosen.any(1, keepdim=True)
    return (flat * chosen).sum(1, keepdim=True) / chosen.sum(1, keepdim=True)
