"""AffinityNet: features by which neighbouring places know whether they belong together (Ahn & Kwak,
CVPR 2018).

DiffuMask §3.3 trains it on seeds of the generated images and lets the attention walk at random
along what it learnt. Here the walk is taken step by step over the pairs within reach: the same
numbers as powers of the dense matrix, without a matrix of all places by all places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.masks.labels import IGNORE

__all__ = ["RADIUS", "AffinityNet", "affinity_loss", "pair_affinity", "pair_offsets", "random_walk"]

RADIUS = 5  # of pairs, in cells of the feature grid: 34 neighbours on one side, as published
_LEAST = 1e-5  # affinities are kept this far from 0 and 1 in the loss


class AffinityNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] → features (B, D, H/4, W/4) whose L1 distance is small within
    an object.

    A small residual network of strides 2 and 4, whose levels are merged as AffinityNet's three are;
    any module with the same shapes will do in its place.
    """

    def __init__(self, width: int = 32, features: int = 48) -> None:
        super().__init__()
        self.stem = _convolution(3, width, 2)
        self.fine = nn.Sequential(_Residual(width), _convolution(width, 2 * width, 2))
        self.coarse = nn.Sequential(*(_Residual(2 * width, dilation) for dilation in (1, 2, 4)))
        self.heads = nn.ModuleList(nn.Conv2d(width * n, features, 1) for n in (1, 2, 2))
        self.merge = nn.Conv2d(3 * features, features, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Features of the images."""
        stem = self.stem(images - 0.5)
        fine = self.fine(stem)
        levels = [F.avg_pool2d(stem, 2), fine, self.coarse(fine)]
        merged: Tensor = self.merge(
            torch.cat([F.elu(h(x)) for h, x in zip(self.heads, levels, strict=True)], 1)
        )
        return F.elu(merged)


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first, self.second = (_convolution(width, width, 1, dilation) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(self.first(x))
        return x + change


def _convolution(before: int, after: int, stride: int, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, after), nn.SiLU())


def pair_offsets(radius: int = RADIUS) -> list[tuple[int, int]]:
    """(dy, dx) of the neighbours nearer than `radius`, each pair of places once."""
    reach = range(1 - radius, radius)
    near = [(y, x) for y in reach for x in reach if 0 < y * y + x * x < radius * radius]
    return [(y, x) for y, x in near if (y, x) > (0, 0)]


def pair_affinity(features: Tensor, radius: int = RADIUS) -> Tensor:
    """exp(-mean |difference of features|) of every pair, (B, P, h, w) in (0, 1], for features (B,
    D, h, w).

    Channel p at (y, x) is for (y, x) and (y, x) + `pair_offsets(radius)[p]`; 0 if that is beyond
    the border.
    """
    inside = torch.ones_like(features[:, :1])
    pairs = [(_partner(features, o), _partner(inside, o)) for o in pair_offsets(radius)]
    return torch.cat(
        [torch.exp(-(features - f).abs().mean(1, keepdim=True)) * i for f, i in pairs], 1
    )


def affinity_loss(affinity: Tensor, labels: Tensor, radius: int = RADIUS) -> Tensor:
    """PSA's loss of `affinity` (B, P, h, w) given `labels` (B, h, w), 255 unsaid: a quarter for
    pairs in the ground, a quarter for pairs in one object, half for pairs across, each the mean
    over its pairs in the batch.
    """
    here = labels.long()[:, None]
    there = torch.cat([_partner(here, offset, IGNORE) for offset in pair_offsets(radius)], 1)
    said, same = (here != IGNORE) & (there != IGNORE), here == there
    kinds = (
        (0.25, said & same & (here == 0)),
        (0.25, said & same & (here > 0)),
        (0.5, said & ~same),
    )
    total = affinity.new_zeros(())
    for weight, chosen in kinds:
        chance = 1 - affinity if chosen is kinds[-1][1] else affinity
        loss = -torch.log(chance.clamp_min(_LEAST))
        total = total + weight * (loss * chosen).sum() / chosen.sum().clamp_min(1)
    return total


def random_walk(
    scores: Tensor, affinity: Tensor, *, power: int = 16, steps: int = 256, radius: int = RADIUS
) -> Tensor:
    """`scores` (B, C, h, w) after `steps` of the walk along `affinity` (B, P, h, w) to the `power`;
    same shape.

    Each step replaces a place's scores by a mean over itself and its neighbours within reach,
    weighted by affinity: the published 256 steps are the dense transition matrix squared eight
    times.
    """
    side = 2 * radius - 1
    window = affinity.new_zeros(len(affinity), side, side, *affinity.shape[-2:])
    window[:, radius - 1, radius - 1] = 1
    for channel, (y, x) in enumerate(pair_offsets(radius)):
        pair = affinity[:, channel : channel + 1] ** power
        window[:, radius - 1 + y, radius - 1 + x] = pair[:, 0]
        window[:, radius - 1 - y, radius - 1 - x] = _partner(pair, (-y, -x))[:, 0]
    weights = window.flatten(1, 2).flatten(2)  # (B, side², hw)
    weights = weights / weights.sum(1, keepdim=True)
    for _ in range(steps):
        near = F.unfold(scores, side, padding=radius - 1).view(
            *scores.shape[:2], *weights.shape[1:]
        )
        scores = (near * weights[:, None]).sum(2).view_as(scores)
    return scores


def _partner(maps: Tensor, offset: tuple[int, int], beyond: int = 0) -> Tensor:
    """`maps` (B, C, h, w) at each place plus `offset`; `beyond` where that is beyond the border."""
    (y, x), (height, width) = offset, maps.shape[-2:]
    padded = F.pad(maps, (abs(x), abs(x), abs(y), abs(y)), value=beyond)
    return padded[..., abs(y) + y :, abs(x) + x :][..., :height, :width]
