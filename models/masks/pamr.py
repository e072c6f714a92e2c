"""Pixel-adaptive mask refinement (Araslanov & Roth, CVPR 2020, section 3.3): scores spread where colours agree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["pamr"]

# Distances of the eight neighbours that a pixel compares itself with, as in the paper's released configuration.
DILATIONS = (1, 2, 4, 8, 12, 24)
_SCALE = 0.1  # unit of colour distance, in standard deviations of the neighbourhood: the paper's


def pamr(images: Tensor, scores: Tensor, iterations: int = 10, dilations: tuple[int, ...] = DILATIONS) -> Tensor:
    """Refine `scores` (B, C, H, W) by `images` (B, 3, H, W) in [0, 1]; same shape, each pixel a mean of its neighbours.

    The weight of a neighbour falls with its colour's distance in units of the neighbourhood's standard deviation.
    """
    colours = _neighbours(images, dilations)  # (B, 3, N, H, W)
    deviation = colours.std(2, keepdim=True)
    logits = -((colours - images.unsqueeze(2)).abs() / (_SCALE * deviation + 1e-6)).mean(1)
    weights = torch.softmax(logits, 1)  # (B, N, H, W)
    for _ in range(iterations):
        scores = torch.stack(
            [(_neighbours(s.unsqueeze(1), dilations)[:, 0] * weights).sum(1) for s in scores.unbind(1)], 1
        )
    return scores


def _neighbours(maps: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) → (B, C, 8 · len(dilations), H, W), the border repeated outwards."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    shifts = [(y * d, x * d) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    return torch.stack(
        [padded[..., reach + y : reach + y + height, reach + x : reach + x + width] for y, x in shifts], 2
    )
