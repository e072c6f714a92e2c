"""The labels that tokens are made from: unlabelled pixels filled, sides that the grid divides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.metrics import IGNORE
from models.parallel import average, rank_and_count

__all__ = ["Filled", "fill", "masked_mean"]


class Filled(NamedTuple):
    """Label maps (N, H, W) int64 without 255; which pixels and which tokens (N, h, w) count."""

    label: Tensor
    pixels: Tensor
    tokens: Tensor


def fill(label: Tensor, guess: Tensor, grid: int) -> Filled:
    """Return label maps (N, H, W) with `guess`, class ids of the same shape, in place of 255.

    The paper's auxiliary head for unlabelled areas (§3.3): an encoder needs a class everywhere. A
    token is ignored only if all its pixels were. Sides grow to multiples of `grid` at the bottom
    and right, by pixels that do not count.
    """
    height, width = label.shape[-2:]
    padding = (0, -width % grid, 0, -height % grid)
    valid = F.pad((label != IGNORE).float(), padding)
    known = torch.where(label == IGNORE, guess, label)
    if any(padding):
        known = F.pad(known[:, None].float(), padding, mode="replicate")[:, 0].long()
    return Filled(known, valid, F.max_pool2d(valid, grid))


def masked_mean(loss: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of a loss where `valid`, of the same shape, is 1; 0 if it is nowhere.

    Of several processes that share a batch, each returns its part: the mean over the processes is
    that of the whole batch.
    """
    count = average(valid.sum())
    return (loss * valid).sum() / count.clamp_min(1 / rank_and_count()[1])
