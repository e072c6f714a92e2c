"""AffinityNet: features that tell whether neighbouring positions belong to one object.

Ahn & Kwak, CVPR 2018. DiffuMask §3.3 trains it on seeds of the generated images, and spreads the
attention by a random walk along its affinities. Here the walk is computed step by step over pairs
within a radius. The results equal powers of the dense matrix, without storing that matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.masks.labels import IGNORE

__all__ = ["RADIUS", "AffinityNet", "affinity_loss", "pair_affinity", "pair_offsets", "random_walk"]

RADIUS = 5  # of pairs, in cells of the feature grid: 34 neighbours, each pair once, as published
_LEAST = 1e-5  # least probability in the loss


class AffinityNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] → features (B, D, H/4, W/4), similar within an object.

    A small residual network with strides 2 and 4; its three levels are merged as AffinityNet's. Any
    module with the same shapes can replace it.
    """

    def __init__(self, width: int = 32, features: int = 48) -> None:
        super().__init__()
        self.stem = _convolution(3, width, 2)
        self.fine = nn.Sequential(_Residual(width), _convolution(width, 2 * width, 2))
        self.coarse = nn.Sequential(*(_Residual(2 * width, dilation) for dilation in (1, 2, 4)))
        self.heads = nn.ModuleList(nn.Conv2d(width * n, features, 1) for n in (1, 2, 2))
        self.merge = nn.Conv2d(3 * features, features, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images' features."""
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
    """Return (dy, dx) of the neighbours nearer than `radius`, each pair of positions once."""
    reach = range(1 - radius, radius)
    near = [(y, x) for y in reach for x in reach if 0 < y * y + x * x < radius * radius]
    return [(y, x) for y, x in near if (y, x) > (0, 0)]


def pair_affinity(features: Tensor, radius: int = RADIUS) -> Tensor:
    """Return exp(-mean |difference of features (B, D, h, w)|) of each pair, (B, P, h, w) in (0, 1].

    Channel p at (y, x) is the pair of (y, x) and (y, x) + `pair_offsets(radius)[p]`; 0 outside the
    image.
    """
    inside = torch.ones_like(features[:, :1])
    pairs = [(_partner(features, o), _partner(inside, o)) for o in pair_offsets(radius)]
    return torch.cat(
        [torch.exp(-(features - f).abs().mean(1, keepdim=True)) * i for f, i in pairs], 1
    )


def affinity_loss(affinity: Tensor, labels: Tensor, radius: int = RADIUS) -> Tensor:
    """Return the loss of `affinity` (B, P, h, w) for `labels` (B, h, w), 255 = unknown.

    As in AffinityNet: weight 1/4 for pairs within the background, 1/4 for pairs within one object,
    1/2 for pairs of different labels, each the mean over its pairs in the batch.
    """
    here = labels.long()[:, None]
    there = torch.cat([_partner(here, offset, IGNORE) for offset in pair_offsets(radius)], 1)
    known = (here != IGNORE) & (there != IGNORE)
    same = here == there
    kinds = (
        (0.25, known & same & (here == 0)),
        (0.25, known & same & (here > 0)),
        (0.5, known & ~same),
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
    """Return `scores` (B, C, h, w) after `steps` of the walk along `affinity` (B, P, h, w).

    Each step replaces a position's scores by the mean over itself and its neighbours, weighted by
    affinity to the `power`. The published walk squares the dense transition matrix eight times,
    which is 256 steps.
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
    """Return `maps` (B, C, h, w) at each position plus `offset`; `beyond` outside the image."""
    (y, x), (height, width) = offset, maps.shape[-2:]
    padded = F.pad(maps, (abs(x), abs(x), abs(y), abs(y)), value=beyond)
    return padded[..., abs(y) + y :, abs(x) + x :][..., :height, :width]
