"""Bootstrap: the interval of the mIoU difference of two networks on the same images.

Images are resampled with replacement, the same ones for both networks, and IoU is computed on the
summed pixel counts of each resample (Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
§13.3). Percentile intervals are too narrow for few images; their levels are expanded as in
Hesterberg 2015, "What Teachers Should Know About the Bootstrap", §5.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from tasks.evaluate.measure import Counts, iou_of_counts

__all__ = ["LEAST_IMAGES", "LEVEL", "Interval", "paired_interval"]

LEVEL = 0.95
RESAMPLES = 2000  # the ends of a 95 % interval then vary by about 2 % of its width
SEED = 20260
# With fewer images, all of them favour the better-looking of two equal networks too often:
# 2**-5 is more than the 2.5 % that lie below the interval.
LEAST_IMAGES = 6
_AT_ONCE = 1 << 22  # resampled weights in memory, 32 MB


@dataclass(frozen=True)
class Interval:
    """Difference of two mIoU, second less first, and its interval at `LEVEL`, all in [-1, 1]."""

    difference: float
    low: float
    high: float


def paired_interval(first: Counts, second: Counts, known: NDArray[np.bool_]) -> Interval:
    """Return the mIoU difference of two networks on the same images, and its bootstrap interval.

    `first` and `second` are (images, 3, classes); `known` (classes,) says which classes count for
    the means. Equal arguments give equal intervals. Raises `ValueError` for other shapes, and for
    fewer than `LEAST_IMAGES` images.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"counts differ in shape, {first.shape} and {second.shape}; measure both networks on "
            "the same images and classes"
        )
    images = len(first)
    if images < LEAST_IMAGES:
        raise ValueError(
            f"{images} images are too few for an interval; measure on at least {LEAST_IMAGES}"
        )
    both = np.stack([first, second], 1)[..., known].astype(np.float64)
    means = _mean_ious(both.sum(0))
    resampled = _resampled(both)
    outside = _expanded(images)
    low, high = np.quantile(resampled, [outside, 1 - outside])
    return Interval(float(means[1] - means[0]), float(low), float(high))


def _resampled(both: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mIoU difference of each resample of counts (images, 2, 3, classes)."""
    images = len(both)
    flat = both.reshape(images, -1)
    rng = np.random.default_rng(SEED)
    found: list[NDArray[np.float64]] = []
    for begin in range(0, RESAMPLES, step := max(1, _AT_ONCE // images)):
        drawn = min(step, RESAMPLES - begin)
        weights = rng.multinomial(images, np.full(images, 1 / images), size=drawn)
        means = _mean_ious((weights.astype(np.float64) @ flat).reshape(drawn, *both.shape[1:]))
        found.append(means[:, 1] - means[:, 0])
    return np.concatenate(found)


def _mean_ious(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mIoU (…) of counts (…, 3, classes); 0 if no class occurs."""
    iou = iou_of_counts(sums)
    present = (~np.isnan(iou)).sum(-1)
    means: NDArray[np.float64] = np.nansum(iou, -1) / np.maximum(present, 1)
    return means


def _expanded(images: int) -> float:
    """Return the share of resamples below the interval, for this number of images."""
    student = stdtrit(images - 1, (1 + LEVEL) / 2)
    return float(ndtr(-math.sqrt(images / (images - 1)) * student))
