"""Splicing: several labelled pictures as the tiles of one (DiffuMask, ICCV 2023, data
augmentation).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.scenes.components import IGNORE, instance_map

__all__ = ["choose_grid", "splice"]

Bytes = NDArray[np.uint8]

# (rows, columns): how many of the 18 000 mosaics of DiffuMask's released splicing script have that
# grid.
GRIDS = {
    (1, 2): 1500,
    (2, 1): 1500,
    (2, 2): 3000,
    (3, 3): 4000,
    (5, 5): 3000,
    (6, 6): 2000,
    (7, 7): 2000,
    (8, 8): 1000,
}
SMALLEST_TILE = 40  # pixels; in smaller ones the objects of most pictures would be specks


def choose_grid(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a mosaic of `size` (H, W), drawn in DiffuMask's proportions where tiles
    are large enough.
    """
    grids = [
        grid
        for grid in GRIDS
        if all(side // n >= SMALLEST_TILE for side, n in zip(size, grid, strict=True))
    ]
    if not grids:
        raise ValueError(
            f"a picture of {size} has no room for two tiles of {SMALLEST_TILE} pixels; turn splicing off"
        )
    weights = np.array([GRIDS[grid] for grid in grids], np.float64)
    return grids[int(rng.choice(len(grids), p=weights / weights.sum()))]


def splice(
    images: Sequence[Bytes], labels: Sequence[Bytes], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[Bytes, Bytes, Bytes]:
    """Image (H, W, 3), label and instance map (H, W) of `size`, tiled row by row with pictures (h,
    w, 3), (h, w).

    A picture is cut to its tile's proportions around its labelled pixels and scaled: images by area
    or bilinear, labels to the nearest pixel. Raises `ValueError` if there are not just as many
    pictures as tiles.
    """
    if not len(images) == len(labels) == grid[0] * grid[1]:
        raise ValueError(
            f"{len(images)} images and {len(labels)} labels for {grid[0]} x {grid[1]} tiles; give one each"
        )
    image, label = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    for window, picture, ids in zip(_tiles(grid, size), images, labels, strict=True):
        shape = label[window].shape
        cut = _crop(ids, shape)
        image[window] = _scaled(picture[cut], shape)
        label[window] = cv2.resize(ids[cut], shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return image, label, _instances(label, grid)


def _tiles(grid: tuple[int, int], size: tuple[int, int]) -> list[tuple[slice, slice]]:
    rows, columns = (
        [side * i // n for i in range(n + 1)] for side, n in zip(size, grid, strict=True)
    )
    return [
        np.s_[top:bottom, left:right]
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _crop(label: Bytes, tile: tuple[int, ...]) -> tuple[slice, slice]:
    """The largest window of the tile's proportions, centred on the labelled pixels as far as the
    picture allows.
    """
    scale = min(side / part for side, part in zip(label.shape, tile, strict=True))
    shape = [
        max(1, min(side, round(part * scale))) for side, part in zip(label.shape, tile, strict=True)
    ]
    labelled = np.argwhere((label > 0) & (label < IGNORE))
    centre = (
        (labelled.min(0) + labelled.max(0) + 1) / 2 if len(labelled) else np.array(label.shape) / 2
    )
    starts = [
        int(np.clip(c - s / 2, 0, side - s))
        for c, s, side in zip(centre, shape, label.shape, strict=True)
    ]
    return np.s_[starts[0] : starts[0] + shape[0], starts[1] : starts[1] + shape[1]]


def _scaled(image: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    shrinks = shape[0] * shape[1] < image.shape[0] * image.shape[1]
    return np.asarray(
        cv2.resize(
            image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    )


def _instances(label: Bytes, grid: tuple[int, int]) -> Bytes:
    """Instance map of a mosaic: objects that meet across the edge of two tiles are two."""
    instance, count = np.zeros(label.shape, np.int64), 0
    for window in _tiles(grid, label.shape):
        own = instance_map(label[window]).astype(np.int64)
        real = (own > 0) & (own < IGNORE)
        instance[window] = np.where(real, own + count, own)
        count += int(own[real].max(initial=0))
    return np.minimum(instance, IGNORE).astype(np.uint8)
