"""Fully connected conditional random fields by mean field (Krähenbühl & Koltun, NeurIPS 2011).

Pixels of similar position and colour get similar labels. DiffuMask runs a field with 21 labels at
each of 20 thresholds. Only two labels ever occur, so here each threshold is one channel of
`binary_crf`, and all share a lattice. Runs batched, on CPU or GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.masks.diffumask.lattice import Lattice

__all__ = ["PUBLISHED", "Kernel", "binary_crf", "two_label_certainty"]

_SIDE = 512  # pixels, of the images that the published kernels were chosen for
_REACH = 4  # standard deviations; what is further weighs a hundredth of a per cent


class Kernel(NamedTuple):
    """How strongly similar pixels attract equal labels.

    `position` is a standard deviation in pixels of a 512² image, `colour` one in grey levels; None
    for a kernel of position alone.
    """

    weight: float
    position: float
    colour: float | None = None


# Of DiffuMask's final masks, from its released code, with ten iterations.
PUBLISHED = (Kernel(3, 3), Kernel(10, 80, 13))
LEAST = 1e-8  # a probability is never nearer to 0 or 1


def two_label_certainty(certainty: float, labels: int) -> float:
    """Return the certainty with two labels that has the odds of `certainty` with `labels` labels.

    A hard label's odds are `certainty` over the share of each other label. 0.5 of 21 labels becomes
    0.952 of two, where 0.5 would mean nothing.
    """
    odds = certainty * (labels - 1) / (1 - certainty)
    return odds / (1 + odds)


def binary_crf(
    images: Tensor,
    foreground: Tensor,
    *,
    kernels: Sequence[Kernel] = PUBLISHED,
    iterations: int = 10,
) -> Tensor:
    """Return mean-field probabilities (B, T, H, W) of `foreground` (B, T, H, W) in [0, 1].

    `images` is (B, H, W, 3) uint8. Each of the T channels is a two-label problem of its own; the
    channels of an image share its lattices.
    """
    unary = as_points(foreground).logit(LEAST)
    given = Pairwise(images, kernels)
    whole = given(torch.ones_like(unary[..., :1]))
    logit = unary
    for _ in range(iterations):
        logit = unary + 2 * given(torch.sigmoid(logit)) - whole
    return as_maps(torch.sigmoid(logit), foreground)


class Pairwise:
    """The pairwise term: a weighted sum of the kernels' filters, each normalised on both sides."""

    def __init__(self, images: Tensor, kernels: Sequence[Kernel]) -> None:
        whole = torch.ones(*images.shape[:1], images[0, ..., 0].numel(), 1, device=images.device)
        self._parts = []
        for weight, position, colour in kernels:
            near = _blur(images, position) if colour is None else _lattice(images, position, colour)
            self._parts.append((weight, near, near(whole).clamp_min(1e-20).rsqrt()))

    def __call__(self, values: Tensor) -> Tensor:
        return torch.stack(
            [weight * scale * near(scale * values) for weight, near, scale in self._parts]
        ).sum(0)


Filter = Callable[[Tensor], Tensor]  # Gaussian-weighted sums of values (B, HW, C), up to a factor


def _blur(images: Tensor, position: float) -> Filter:
    """Return a filter by position: a blur along rows and one along columns."""
    height, width = images.shape[1:3]
    unit = _pixels(images, position)
    reach = math.ceil(_REACH * unit)
    steps = torch.arange(-reach, reach + 1, device=images.device) / unit
    window = torch.exp(-0.5 * steps**2)[None, None]

    def blurred(values: Tensor) -> Tensor:
        maps = values.transpose(1, 2).reshape(-1, 1, height, width)
        maps = F.conv2d(maps, window[..., None], padding=(reach, 0))
        maps = F.conv2d(maps, window[:, :, None], padding=(0, reach))
        return maps.view(len(values), -1, height * width).transpose(1, 2)

    return blurred


def _lattice(images: Tensor, position: float, colour: float) -> Filter:
    """Return a filter by position and colour, five dimensions in units of standard deviations."""
    batch, height, width, _ = images.shape
    unit = _pixels(images, position)
    grid = torch.meshgrid(
        *(torch.arange(n, device=images.device) / unit for n in (height, width)), indexing="ij"
    )
    parts = [torch.stack(grid, -1).expand(batch, -1, -1, -1), images.float() / colour]
    return Lattice(torch.cat(parts, -1).flatten(1, 2)).filter


def _pixels(images: Tensor, position: float) -> float:
    return position * max(images.shape[1:3]) / _SIDE


def as_points(maps: Tensor) -> Tensor:
    return maps.float().flatten(2).transpose(1, 2)


def as_maps(points: Tensor, like: Tensor) -> Tensor:
    return points.transpose(1, 2).reshape(like.shape)
