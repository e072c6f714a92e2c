"""Which way from map to label suits an image: the map alone, its regions, or its colours.

No way is best for all images. A sharp map is better than all that can be made of it; the regions of
`models.masks.regions` repair poor maps of photographs; and where colours tell object and ground
apart, as in drawings, colour models find parts that a map misses. Two weights, from figures that do
not know the truth, blend the three.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["colour_weight", "region_weight"]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

# Logits of the weights. Fitted to label IoU on 90 photographs with maps of eight kinds and on
# generated drawings of one, two and three objects.
REGIONS = (-3.6, -1.2, 11.3)  # separation, log2 of the map's side over 16, constant
COLOURS = (-4.4, 1.7, -3.3, 0.2)  # √overlap, contrast, log2 of the map's side over 16, constant
_BINS = 10  # of each colour channel's range


def region_weight(lead: Floats, inside: Bools, side: int) -> float:
    """Return the weight in [0, 1] of the regions, the rest of which is the map's own.

    `lead` (H, W) in [0, 1] is the map, of `side` pixels before it was enlarged, and `inside` its
    object. A good map has two levels, object and ground, and little between. The separation is the
    distance of the levels in units of their standard deviations. Medians on photographs: 3.4 for
    maps of 64², 2.8 of 32², 2.3 of 16², and 1.8-2.1 for those with errors, and for a network's.
    """
    if inside.all() or not inside.any():
        return 1.0
    high, low = lead[inside], lead[~inside]
    separation = (high.mean() - low.mean()) / (high.std() + low.std() + 1e-6)
    return _share(REGIONS, float(separation), math.log2(side / 16))


def colour_weight(image: NDArray[np.uint8], inside: Bools, side: int) -> float:
    """Return the weight in [0, 1] of a mask that was found by colour.

    High if the mask's colours do not overlap with those around it and its contour follows strong
    edges. The coarser the map, the more there is to find.
    """
    if inside.all() or not inside.any():
        return 0.0
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8)
    lab = np.asarray(cv2.cvtColor(smooth / 255, cv2.COLOR_RGB2LAB), np.float32)
    overlap = math.sqrt(_overlap(lab, inside))
    return _share(COLOURS, overlap, _contrast(lab, inside), math.log2(side / 16))


def _overlap(lab: Floats, inside: Bools) -> float:
    """Return the Bhattacharyya coefficient of the colours inside and outside, in [0, 1]."""
    low, span = lab.min((0, 1)), np.ptp(lab, (0, 1)) + 1e-6
    bins = np.clip((lab - low) / span * _BINS, 0, _BINS - 1).astype(int)
    codes = (bins * (1, _BINS, _BINS**2)).sum(2)
    counts = (np.bincount(codes[mask], minlength=_BINS**3) for mask in (inside, ~inside))
    shares = [count / count.sum() for count in counts]
    return float(np.sqrt(shares[0] * shares[1]).sum())


def _contrast(lab: Floats, inside: Bools) -> float:
    """Return the log of the median gradient on the contour over the image's mean gradient."""
    slopes = (np.square(cv2.Sobel(lab, cv2.CV_32F, *axis)).sum(2) for axis in ((1, 0), (0, 1)))
    slope = np.sqrt(sum(slopes))
    edge = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return math.log(float(np.median(slope[edge > 0])) / (float(slope.mean()) + 1e-6) + 0.1)


def _share(weights: tuple[float, ...], *values: float) -> float:
    logit = sum(weight * value for weight, value in zip(weights, (*values, 1), strict=True))
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))
