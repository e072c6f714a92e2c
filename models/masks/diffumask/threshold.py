"""Adaptive threshold: per image the one whose mask agrees best with a reference mask.

DiffuMask §3.3, figure 4, where the reference is AffinityNet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.masks.diffumask.crf import binary_crf, two_label_certainty

__all__ = ["GRID", "SEARCH", "Thresholded", "adaptive_threshold"]

GRID = tuple(g / 100 for g in range(35, 55))  # DiffuMask's, for maps whose maximum is 1
# Side in pixels at which thresholds are compared. On 512² images of the embedded model the masks
# have IoU 0.999 with those of a search at full size (192²: 0.999, 256²: 1.000), in a sixth of the
# time.
SEARCH = 128
_CERTAINTY = two_label_certainty(0.5, 21)


class Thresholded(NamedTuple):
    """Masks (B, H, W) bool, their thresholds (B,), and all thresholds' agreement (B, T)."""

    mask: Tensor
    threshold: Tensor
    agreement: Tensor


def adaptive_threshold(
    images: Tensor, maps: Tensor, reference: Tensor, grid: Sequence[float] = GRID
) -> Thresholded:
    """Return per image the threshold of `maps` (B, H, W) whose CRF mask is closest to `reference`.

    `images` is (B, H, W, 3) uint8. Agreement is IoU with `reference` (B, H, W) bool; of equals the
    lowest threshold wins. If no mask overlaps the reference, the mask is empty. Larger images are
    searched at `SEARCH` pixels per side, all thresholds as channels of one CRF; the mask of the
    best is then computed at full size.
    """
    levels = torch.tensor(list(grid), device=maps.device)
    agreement = _agreements(*_shrunk(images, maps, reference), levels)
    best = levels[agreement.argmax(1)]
    mask = _masks(images, maps, best[:, None])[:, 0]
    return Thresholded(mask & (agreement.amax(1) > 0)[:, None, None], best, agreement)


def _agreements(images: Tensor, maps: Tensor, reference: Tensor, levels: Tensor) -> Tensor:
    masks = _masks(images, maps, levels.expand(len(maps), -1))
    common = (masks & reference[:, None]).sum((2, 3))
    union = (masks | reference[:, None]).sum((2, 3))
    return common / union.clamp_min(1)


def _masks(images: Tensor, maps: Tensor, levels: Tensor) -> Tensor:
    """Return CRF masks (B, T, H, W) of maps (B, H, W) above levels (B, T)."""
    certain = torch.where(maps[:, None] > levels[..., None, None], _CERTAINTY, 1 - _CERTAINTY)
    return binary_crf(images, certain) > 0.5


def _shrunk(images: Tensor, maps: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = SEARCH / max(maps.shape[1:])
    if scale >= 1:
        return images, maps, reference
    size = tuple(max(1, round(side * scale)) for side in maps.shape[1:])
    pixels = (
        F.interpolate(images.permute(0, 3, 1, 2).float(), size=size, mode="area").round().byte()
    )
    small, inside = (
        F.interpolate(x[:, None].float(), size=size, mode="area")[:, 0] for x in (maps, reference)
    )
    return pixels.permute(0, 2, 3, 1), small, inside > 0.5
