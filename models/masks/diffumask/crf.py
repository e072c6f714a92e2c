"""Fully connected conditional random fields by mean field (Krähenbühl & Koltun, NeurIPS 2011),
batched, CPU or GPU.

Neighbours of like colour want like labels, however far they are apart. DiffuMask runs one with 21
labels at each of 20 thresholds; only two labels ever occur, so here every threshold is one channel
of `binary_crf` and all share a lattice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.masks.diffumask.lattice import Lattice

__all__ = ["PUBLISHED", "Kernel", "binary_crf", "dense_crf", "two_label_certainty"]

_SIDE = 512  # pixels, of the images that the published kernels were chosen for
_REACH = 4  # standard deviations; beyond is a hundredth of a per cent


class Kernel(NamedTuple):
    """How strongly like pixels want like labels; standard deviations in pixels of a 512² image and
    in grey levels.

    Without `colour` the kernel knows of position alone.
    """

    weight: float
    position: float
    colour: float | None = None


# DiffuMask's for its final masks, from its released code, with ten iterations.
PUBLISHED = (Kernel(3, 3), Kernel(10, 80, 13))
_LEAST = 1e-8  # a probability is never nearer to 0 or 1


def two_label_certainty(certainty: float, labels: int) -> float:
    """What two labels have to be given for the odds that `certainty` is with `labels`: 0.5 of 21 is
    0.952 of two.

    A hard label's odds are `certainty` over each other label's share. 0.5 of two labels would say
    nothing.
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
    """Probabilities after mean field of `foreground` (B, T, H, W) in [0, 1], T two-label problems
    on each image.

    `images` is (B, H, W, 3) uint8. The problems of an image do not touch each other; they share its
    lattices.
    """
    unary, given = _as_points(foreground).logit(_LEAST), _Pairwise(images, kernels)
    whole = given(torch.ones_like(unary[..., :1]))
    logit = unary
    for _ in range(iterations):
        logit = unary + 2 * given(torch.sigmoid(logit)) - whole
    return _as_maps(torch.sigmoid(logit), foreground)


def dense_crf(
    images: Tensor,
    probabilities: Tensor,
    *,
    kernels: Sequence[Kernel] = PUBLISHED,
    iterations: int = 10,
) -> Tensor:
    """Probabilities after mean field of `probabilities` (B, C, H, W), C labels of which each pixel
    has one.
    """
    unary, given = _as_points(probabilities).clamp_min(_LEAST).log(), _Pairwise(images, kernels)
    found = torch.softmax(unary, -1)
    for _ in range(iterations):
        found = torch.softmax(unary + given(found), -1)
    return _as_maps(found, probabilities)


class _Pairwise:
    """What the neighbours want: the sum over kernels of their weighted filters, each normalised on
    both sides.
    """

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
    """Without colour the Gaussian is a blur along rows and one along columns."""
    height, width = images.shape[1:3]
    unit = _pixels(images, position)
    reach = math.ceil(_REACH * unit)
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / unit) ** 2)[
        None, None
    ]

    def blurred(values: Tensor) -> Tensor:
        maps = values.transpose(1, 2).reshape(-1, 1, height, width)
        maps = F.conv2d(
            F.conv2d(maps, window[..., None], padding=(reach, 0)),
            window[:, :, None],
            padding=(0, reach),
        )
        return maps.view(len(values), -1, height * width).transpose(1, 2)

    return blurred


def _lattice(images: Tensor, position: float, colour: float) -> Filter:
    """With colour: positions and colours in units of the kernel's standard deviations, five
    dimensions.
    """
    batch, height, width, _ = images.shape
    unit = _pixels(images, position)
    grid = torch.meshgrid(
        *(torch.arange(n, device=images.device) / unit for n in (height, width)), indexing="ij"
    )
    parts = [torch.stack(grid, -1).expand(batch, -1, -1, -1), images.float() / colour]
    return Lattice(torch.cat(parts, -1).flatten(1, 2)).filter


def _pixels(images: Tensor, position: float) -> float:
    return position * max(images.shape[1:3]) / _SIDE


def _as_points(maps: Tensor) -> Tensor:
    return maps.float().flatten(2).transpose(1, 2)


def _as_maps(points: Tensor, like: Tensor) -> Tensor:
    return points.transpose(1, 2).reshape(like.shape)
