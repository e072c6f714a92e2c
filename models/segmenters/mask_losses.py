"""Mask2Former's matching and mask losses, from which pixels of 255 are left out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from models.metrics import IGNORE

__all__ = ["BCE", "CLASS", "DICE", "Targets", "mask_losses", "match", "targets_of"]

# §3.3 and appendix A of the paper
CLASS, BCE, DICE = 2.0, 5.0, 5.0  # weights of the losses, and of the costs that matching adds up
_OVERSAMPLED = 3  # candidates per point of the loss
_UNCERTAIN = 0.75  # share of the points that are the most uncertain candidates


class Targets(NamedTuple):
    """Of one image: ids (T,) of the classes in its label, their masks (T, H, W), valid (H, W)."""

    ids: Tensor
    masks: Tensor
    valid: Tensor


def targets_of(label: Tensor) -> Targets:
    """Return the classes of a label (H, W), the background among them, without 255."""
    valid = label != IGNORE
    ids = torch.unique(label[valid])
    return Targets(ids, (label == ids[:, None, None]).float(), valid.float())


@torch.no_grad()
def match(classes: Tensor, masks: Tensor, target: Targets, points: int) -> tuple[Tensor, Tensor]:
    """Return matched queries and targets, by the least sum of costs at uniformly drawn points."""
    where = torch.rand(1, points, 2, device=masks.device)
    valid = _sample(target.valid[None], where, "nearest")
    guess, truth = _sample(masks, where), _sample(target.masks, where)
    share = valid / valid.sum().clamp_min(1)
    bce = (F.softplus(-guess) * share) @ truth.T + (F.softplus(guess) * share) @ (1 - truth).T
    inside = guess.sigmoid() * valid
    known = truth * valid
    both = 2 * inside @ truth.T
    dice = 1 - (both + 1) / (inside.sum(1)[:, None] + known.sum(1) + 1)
    cost = BCE * bce + DICE * dice - CLASS * classes.softmax(-1)[:, target.ids]
    # an overflowing half-precision mask must not stop the training by itself
    rows, columns = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6).cpu().numpy())
    device = masks.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


def mask_losses(
    masks: Tensor, target: Targets, matched: Tensor, points: int
) -> tuple[Tensor, Tensor]:
    """Return the sums over masks (M, h, w) of cross-entropy and dice loss, at chosen points."""
    truth = target.masks[matched]
    valid = target.valid.expand_as(truth)
    where = _uncertain_points(masks.detach(), valid, points)
    guess, wanted = _sample(masks, where), _sample(truth, where)
    weight = _sample(valid, where, "nearest")
    bce = F.binary_cross_entropy_with_logits(guess, wanted, reduction="none")
    mean = (bce * weight).sum(1) / weight.sum(1).clamp_min(1)
    inside, known = guess.sigmoid() * weight, wanted * weight
    dice = 1 - (2 * (inside * known).sum(1) + 1) / (inside.sum(1) + known.sum(1) + 1)
    return mean.sum(), dice.sum()


def _uncertain_points(masks: Tensor, valid: Tensor, points: int) -> Tensor:
    """Return points (M, K, 2): most where a mask is uncertain, the others anywhere.

    Kirillov et al. 2020, "PointRend", §3.1. Points on ignored pixels come last.
    """
    candidates = torch.rand(len(masks), _OVERSAMPLED * points, 2, device=masks.device)
    doubt = -_sample(masks, candidates).abs()
    doubt = doubt.masked_fill(_sample(valid, candidates, "nearest") == 0, float("-inf"))
    count = int(_UNCERTAIN * points)
    best = doubt.topk(count, dim=1).indices
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    anywhere = torch.rand(len(masks), points - count, 2, device=masks.device)
    return torch.cat([chosen, anywhere], 1)


def _sample(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Return the values (M, K) of maps (M, h, w) at points (M or 1, K, 2), x and y in [0, 1]."""
    grid = 2 * points.expand(len(maps), -1, -1)[:, None] - 1
    values = F.grid_sample(maps[:, None], grid, mode=mode, align_corners=False)
    return values[:, 0, 0]
