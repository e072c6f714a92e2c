"""Pixel-adaptive mask refinement (Araslanov & Roth, CVPR 2020, section 3.3).

Scores spread between pixels of similar colour.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["pamr"]

# Distances of the eight neighbours of each pixel, from the released configuration.
DILATIONS = (1, 2, 4, 8, 12, 24)
_SCALE = 0.1  # unit of colour distance, in standard deviations of the neighbourhood (paper)


def pamr(
    images: Tensor, scores: Tensor, iterations: int = 10, dilations: tuple[int, ...] = DILATIONS
) -> Tensor:
    """Refine `scores` (B, C, H, W) by `images` (B, 3, H, W) in [0, 1]; returns the same shape.

    Each iteration replaces a pixel's scores by a weighted mean of its neighbours'. A neighbour's
    weight falls with the distance of the colours, in units of the neighbourhood's standard
    deviation.
    """
    shifts = [
        (y * d, x * d)
        for d in dilations
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
        if (y, x) != (0, 0)
    ]
    weights = _weights(images, shifts)
    for _ in range(iterations):
        padded = _extend(scores, shifts)
        scores = torch.zeros_like(scores)
        for weight, shift in zip(weights, shifts, strict=True):
            scores.addcmul_(_shifted(padded, shift, scores.shape), weight.unsqueeze(1))
    return scores


def _weights(images: Tensor, shifts: list[tuple[int, int]]) -> Tensor:
    """Return the N neighbours' weights (N, B, H, W), which sum to 1."""
    padded = _extend(images, shifts)
    total, squares, change = (torch.zeros_like(images) for _ in range(3))
    # summed one by one: all neighbours' colours at once take many times as long
    for shift in shifts:
        torch.sub(_shifted(padded, shift, images.shape), images, out=change)
        total += change
        squares.addcmul_(change, change)
    variance = (squares - total.square() / len(shifts)) / (len(shifts) - 1)
    scale = 1 / (_SCALE * variance.clamp_min(0).sqrt() + 1e-6)
    weights = images.new_empty((len(shifts), *images.shape[:1], *images.shape[2:]))
    for weight, shift in zip(weights, shifts, strict=True):
        torch.sub(_shifted(padded, shift, images.shape), images, out=change)
        torch.mean(change.abs_().mul_(scale), 1, out=weight)
    return torch.softmax(weights.neg_(), 0)


def _extend(maps: Tensor, shifts: list[tuple[int, int]]) -> Tensor:
    """Return maps (B, C, H, W) with the border repeated outwards by the largest shift."""
    return F.pad(maps, (max(x for _, x in shifts),) * 4, mode="replicate")


def _shifted(padded: Tensor, shift: tuple[int, int], shape: torch.Size) -> Tensor:
    reach, (y, x) = (padded.shape[-1] - shape[-1]) // 2, shift
    return padded[..., reach + y : reach + y + shape[-2], reach + x : reach + x + shape[-1]]
