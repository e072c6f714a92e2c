"""Scores → label map: named classes and background compete; close decisions become 255."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["IGNORE", "Labels", "label_maps", "otsu"]

IGNORE = 255
_BINS = 64


class Labels(NamedTuple):
    """Label maps (B, H, W) uint8 and confidence (B, H, W) float32 in [0, 1].

    Labels are 0 (background), class ids, and 255 (uncertain).
    """

    label: Tensor
    confidence: Tensor


def otsu(values: Tensor) -> Tensor:
    """Return Otsu's threshold (1979) of each row of `values` (N, M) in [0, 1], as (N,)."""
    bins = (values * _BINS).long().clamp(0, _BINS - 1)
    histogram = torch.zeros(len(values), _BINS, device=values.device).scatter_add_(
        1, bins, torch.ones_like(values)
    )
    share = histogram / values.shape[1]
    centres = (torch.arange(_BINS, device=values.device) + 0.5) / _BINS
    below = share.cumsum(1)
    moment = (share * centres).cumsum(1)
    between = (moment[:, -1:] * below - moment) ** 2 / (below * (1 - below)).clamp_min(1e-9)
    return (between[:, :-1].argmax(1) + 1) / _BINS


def label_maps(scores: Tensor, ids: Tensor, band: float) -> Labels:
    """Return the class with the highest of `scores` (B, C, H, W) per pixel, and its confidence.

    `ids` (B, C) holds each channel's class id, 0 = background. Scores are normalised to sum to 1;
    confidence is the difference of the two highest. Pixels with less than `band` are 255.
    """
    total = scores.sum(1, keepdim=True).clamp_min(1e-12)
    top = (scores / total).topk(min(2, scores.shape[1]), dim=1)
    lead = top.values[:, 0] - top.values[:, 1] if scores.shape[1] > 1 else top.values[:, 0]
    winner = ids.gather(1, top.indices[:, 0].flatten(1)).view_as(lead)
    label = torch.where(lead < band, torch.full_like(winner, IGNORE), winner)
    return Labels(label.to(torch.uint8), lead)
