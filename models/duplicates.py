"""Near-duplicate images, found by a perceptual hash of 64 bits.

The difference hash (Krawetz 2013, "Kind of Like That") says for 8 x 8 cells of the grey image
whether the cell to the right is brighter. Another order of float sums, another codec and another
size leave it nearly as it is.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR", "difference_hash", "near_any"]

# Differing bits up to which two images count as one; docs/design-notes.md, "Nights that add up".
NEAR = 4
_SIDE = 8
_BANDS = NEAR + 1  # with at most NEAR differing bits, one of so many bands is equal
_BITS = 64 // _BANDS

Hashes = NDArray[np.uint64]


def difference_hash(image: NDArray[np.uint8]) -> int:
    """Return the hash of an image (H, W, 3) uint8 RGB, in [0, 2**64)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    brighter = cells[:, 1:] > cells[:, :-1]
    return int.from_bytes(np.packbits(brighter).tobytes(), "big")


def near_any(hashes: Hashes, others: Hashes) -> NDArray[np.bool_]:
    """Return which `hashes` (n,) differ in at most `NEAR` bits from any of `others` (m,)."""
    found = np.zeros(len(hashes), bool)
    others = np.unique(others)
    for band in range(_BANDS):
        order = np.argsort(_band(others, band), kind="stable")
        keys = _band(others, band)[order]
        wanted = _band(hashes, band)
        at = np.searchsorted(keys, wanted, side="left")
        ends = np.searchsorted(keys, wanted, side="right")
        while (open_ := np.flatnonzero(~found & (at < ends))).size:
            differing = hashes[open_] ^ others[order[at[open_]]]
            found[open_] = np.bitwise_count(differing) <= NEAR
            at[open_] += 1
    return found


def _band(hashes: Hashes, band: int) -> Hashes:
    mask = np.uint64((1 << _BITS) - 1)
    cut: Hashes = (hashes >> np.uint64(band * _BITS)) & mask
    return cut
