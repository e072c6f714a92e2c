"""Gaussian filtering in feature space, on the permutohedral lattice (Adams, Baek & Davis 2010).

Each point is distributed to the d + 1 corners of its simplex, the corners are blurred along the
lattice's d + 1 axes, and the points read the corners' values. The cost is linear in the points and
does not depend on the kernel's width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Lattice"]


class Lattice:
    """Filters values at `features` (B, N, d) by a Gaussian of standard deviation 1, set by set.

    Construction finds the corners once. Each `filter` is two weighted sums and a blur of corners.
    """

    def __init__(self, features: Tensor) -> None:
        sets, points, dims = features.shape
        anchors, ranks, self._shares = _simplices(features.flatten(0, 1).float())
        owner = torch.arange(sets, device=features.device).repeat_interleave(points)
        self._corners, self._neighbours = _number(anchors, ranks, owner)
        # the reverse: for each corner, the points that it belongs to
        order = self._corners.flatten().argsort(stable=True)
        self._points = order // (dims + 1)
        self._back = self._shares.flatten()[order]
        counts = self._corners.flatten().bincount(minlength=self._neighbours.shape[-1])
        self._starts = counts.cumsum(0) - counts

    def filter(self, values: Tensor) -> Tensor:
        """Return Gaussian-weighted sums of `values` (B, N, C) float32, up to a common factor."""
        flat = values.flatten(0, 1)
        corners = F.embedding_bag(
            self._points, flat, self._starts, mode="sum", per_sample_weights=self._back
        )
        absent = corners.new_zeros(1, corners.shape[1])  # value of corners without a point nearby
        for before, after in self._neighbours:
            every = torch.cat([corners, absent])
            corners = 0.5 * corners + 0.25 * (every[before] + every[after])
        return F.embedding_bag(
            self._corners, corners, mode="sum", per_sample_weights=self._shares
        ).view_as(values)


def _simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the simplex of each of `features` (N, d), and barycentric coordinates, (N, d + 1).

    `anchors` is the simplex's corner of remainder 0, int64. `ranks` orders the coordinates of the
    point's offset from it, largest first, which determines the other corners. `shares` are the
    weights of the corners of remainder 0 to d.
    """
    dims = features.shape[1]
    steps = torch.arange(1, dims + 1, device=features.device)
    scaled = features * (2 / 3) ** 0.5 * (dims + 1) / (steps * (steps + 1)).sqrt()
    above = scaled.flip(1).cumsum(1).flip(1)  # sums over this coordinate and those after it
    elevated = F.pad(above, (0, 1)) - F.pad(steps * scaled, (1, 0))
    nearest = (elevated / (dims + 1)).round()
    order = (nearest * (dims + 1) - elevated).argsort(dim=1, stable=True)
    ranks = order.argsort(1) + nearest.sum(1, keepdim=True).long()
    anchors = nearest.long() * (dims + 1) + (dims + 1) * (
        (ranks < 0).long() - (ranks > dims).long()
    )
    ranks = ranks.remainder(dims + 1)
    offsets = (elevated - anchors) / (dims + 1)
    ascending = torch.empty_like(offsets).scatter_(1, dims - ranks, offsets)
    shares = ascending - ascending.roll(1, 1)
    shares[:, 0] += 1
    return anchors, ranks, shares


def _number(anchors: Tensor, ranks: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers 0 to M - 1 of every point's corners (N, d + 1), and of each corner's neighbours (d +
    1, 2, M).

    A neighbour that is nobody's corner is M. Corners of different owners are different.
    """
    size = anchors.shape[1]
    low, high = (
        anchors[:, :-1].amin(0) - 2 * size,
        anchors[:, :-1].amax(0) + 2 * size,
    )  # neighbours' corners included
    extents = high - low + 1
    strides = torch.cat([extents.new_ones(1), extents.cumprod(0)])
    orders = size ** torch.arange(size - 1, device=anchors.device)
    permutations = size ** (size - 1)  # of which most are none
    if float(extents.double().prod()) * (int(owner.max()) + 1) * permutations >= 2**63:
        raise ValueError(
            f"features reach over {extents.tolist()} cells, too many to number; use wider kernels"
        )
    # points of one simplex have the same corners, and there are far fewer simplices than points
    starts = ((anchors[:, :-1] - low) * strides[:-1]).sum(-1) + owner * strides[-1]
    simplices, of_point = torch.unique(
        starts * permutations + (ranks[:, :-1] * orders).sum(-1), return_inverse=True
    )
    start, rank = simplices // permutations, simplices[:, None] // orders % size
    remainder = torch.arange(size, device=anchors.device)[:, None]
    moves = remainder - size * (
        rank[:, None] >= size - remainder
    )  # the last coordinate follows from the others
    corners, index = torch.unique(
        start[:, None] + (moves * strides[:-1]).sum(-1), return_inverse=True
    )
    steps = size * torch.cat([strides[:-1], strides.new_zeros(1)]) - strides[:-1].sum()
    targets = corners + torch.stack([steps, -steps], 1)[..., None]
    found = torch.searchsorted(corners, targets).clamp_max(len(corners) - 1)
    return index[of_point], torch.where(corners[found] == targets, found, len(corners))
