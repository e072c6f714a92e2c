"""The threshold that suits each image: the one whose mask agrees best with AffinityNet's (DiffuMask §3.3, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.masks.crf import binary_crf, two_label_certainty

__all__ = ["GRID", "Thresholded", "adaptive_threshold"]

GRID = tuple(g / 100 for g in range(35, 55))  # DiffuMask's, for maps whose maximum is 1
_CERTAINTY = two_label_certainty(0.5, 21)


class Thresholded(NamedTuple):
    """Masks (B, H, W) bool, the thresholds that made them (B,), and every threshold's agreement (B, T) in [0, 1]."""

    mask: Tensor
    threshold: Tensor
    agreement: Tensor


def adaptive_threshold(images: Tensor, maps: Tensor, reference: Tensor, grid: Sequence[float] = GRID) -> Thresholded:
    """For each image (B, H, W, 3) uint8, the threshold of `maps` (B, H, W) whose CRF mask is most like `reference`.

    Agreement is IoU with `reference` (B, H, W) bool; of equals the lowest threshold wins. Where no mask meets the
    reference at all, the mask is empty. All thresholds are channels of one CRF.
    """
    levels = torch.tensor(list(grid), device=maps.device)
    certain = torch.where(maps[:, None] > levels[:, None, None], _CERTAINTY, 1 - _CERTAINTY)
    masks = binary_crf(images, certain) > 0.5
    meets, covers = (masks & reference[:, None]).sum((2, 3)), (masks | reference[:, None]).sum((2, 3))
    agreement = meets / covers.clamp_min(1)
    best = agreement.argmax(1)
    mask = masks[torch.arange(len(masks), device=masks.device), best] & (agreement.amax(1) > 0)[:, None, None]
    return Thresholded(mask, levels[best], agreement)
