"""Draws: the sample that each position of a training sees: evenly by sample or class, or by weight.

A labelled set may have `shares`, (n,) float64: how often each sample is drawn, relative to the
others. Without them every sample is drawn once per epoch. The draws of an epoch depend on the seed,
the epoch and the shares alone.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset

__all__ = ["MOST", "Order", "even_shares", "shares_of"]

# No sample is drawn more than `MOST` times as often as evenly, or less than 1 / `MOST` times.
# Otherwise the only sample of a class would be a tenth of what a training of ten classes sees.
MOST = 10.0
_ROUNDS = 100  # of the fit; shares change by less than 1e-3 after some twenty
_SCALINGS = 5  # of a round; the mean is then 1 but for 1e-3
_KEPT = 2  # epochs in memory: a batch may lie in two

Shares = NDArray[np.float64]


def even_shares(
    shown: NDArray[np.bool_],
    classes: NDArray[np.float64] | None = None,
    samples: NDArray[np.float64] | None = None,
) -> Shares:
    """Return shares that make all classes equally frequent, as far as the samples allow.

    `shown` (n, classes) says which classes a sample shows, the background left out. Shares are
    those closest to drawing all samples alike, which iterative proportional fitting finds (Deming
    and Stephan 1940): a sample's share is multiplied by the geometric mean of what its classes
    lack. Without weights shares have mean 1, and samples of no class keep share 1.

    Weights are above 0. A class of twice the weight in `classes` (classes,) becomes twice as
    frequent. Of two samples that show the same classes, the one of twice the weight in `samples`
    (n,) has twice the share; those of no class keep their weight.
    """
    shares = np.ones(len(shown)) if samples is None else samples.astype(np.float64)
    objects = shown.any(1)
    if not objects.any():
        return shares
    present = shown.any(0)
    chosen = shown[objects][:, present].astype(np.float64)
    wanted = np.ones(chosen.shape[1]) if classes is None else classes[present]
    weights = shares[objects]
    sizes = chosen.sum(1)
    fitted = np.ones(len(chosen))
    for _ in range(_ROUNDS):
        frequencies = (weights * fitted) @ chosen
        lacking = np.log(wanted * frequencies.mean() / frequencies)
        fitted = _bounded(fitted * np.exp(chosen @ lacking / sizes), weights)
    shares[objects] = weights * fitted
    return shares


def _bounded(factors: Shares, weights: Shares) -> Shares:
    """Return factors in [1 / MOST, MOST], of mean 1 by these weights, scaled where inside."""
    for _ in range(_SCALINGS):
        factors = np.clip(factors / np.average(factors, weights=weights), 1 / MOST, MOST)
    return factors


def shares_of(samples: Dataset[Any]) -> Shares | None:
    """Return the shares of a labelled set, also of several joined or of a part; None for even ones.

    Where only some of several sets have shares, the samples of the others have share 1.
    """
    if isinstance(samples, Subset):
        whole = shares_of(samples.dataset)
        return None if whole is None else whole[samples.indices]
    if isinstance(samples, ConcatDataset):
        parts = [(shares_of(part), len(cast(Sized, part))) for part in samples.datasets]
        if all(shares is None for shares, _ in parts):
            return None
        return np.concatenate([np.ones(n) if each is None else each for each, n in parts])
    return cast(Shares | None, getattr(samples, "shares", None))


class Order:
    """The index of the sample at each position 0, 1, … of a training on `size` samples.

    An epoch is `size` positions. Without shares it is a permutation. With shares, sample i occurs
    `size` · share / Σ shares times in it, rounded up or down at random (systematic sampling), also
    in random order.
    """

    def __init__(self, seed: int, size: int, shares: Shares | None = None) -> None:
        self._seed = seed
        self._size = size
        self._ends = None if shares is None else np.cumsum(shares)
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(position, self._size)
        if epoch not in self._epochs:
            for old in list(self._epochs)[: 1 - _KEPT]:
                del self._epochs[old]
            self._epochs[epoch] = self._drawn(epoch)
        return int(self._epochs[epoch][at])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": {}}

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._seed, 0, epoch))
        if self._ends is None:
            return rng.permutation(self._size)
        marks = (rng.random() + np.arange(self._size)) * (self._ends[-1] / self._size)
        chosen = np.searchsorted(self._ends, marks, side="right")
        return rng.permutation(np.minimum(chosen, self._size - 1))
