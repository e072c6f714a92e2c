"""Splicing: several labelled images as the tiles of one (DiffuMask, ICCV 2023, augmentation)."""

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

# (rows, columns) → number of mosaics with that grid, of the 18 000 of DiffuMask's released script.
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
SMALLEST_TILE = 40  # pixels; in smaller tiles most objects would be specks


def choose_grid(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    """Draw rows and columns of a mosaic of `size` (H, W), in DiffuMask's proportions.

    Only grids with tiles of at least `SMALLEST_TILE` count. Raises `ValueError` if there is none.
    """
    grids = [
        grid
        for grid in GRIDS
        if all(side // n >= SMALLEST_TILE for side, n in zip(size, grid, strict=True))
    ]
    if not grids:
        raise ValueError(
            f"an image of {size} has no room for two tiles of {SMALLEST_TILE} pixels; "
            "turn splicing off"
        )
    weights = np.array([GRIDS[grid] for grid in grids], np.float64)
    return grids[int(rng.choice(len(grids), p=weights / weights.sum()))]


def splice(
    images: Sequence[Bytes], labels: Sequence[Bytes], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[Bytes, Bytes, Bytes]:
    """Return image (H, W, 3), label and instance map (H, W) of `size`, tiled row by row.

    Each image (h, w, 3) and its label (h, w) are cropped to the tile's proportions around the
    labelled pixels and resized, by area if they shrink, else bilinear. A label pixel gets the id
    with the largest share of it, the lowest of equals. Raises `ValueError` unless there are as many
    images and labels as tiles.
    """
    if not len(images) == len(labels) == grid[0] * grid[1]:
        raise ValueError(
            f"{len(images)} images and {len(labels)} labels for {grid[0]} x {grid[1]} tiles; "
            "give one of each per tile"
        )
    image = np.zeros((*size, 3), np.uint8)
    label = np.zeros(size, np.uint8)
    for window, pixels, ids in zip(_tiles(grid, size), images, labels, strict=True):
        shape = label[window].shape
        cut = _crop(ids, shape)
        image[window] = _resized(pixels[cut], shape)
        label[window] = _resized_label(ids[cut], shape)
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
    """Return the largest window of the tile's proportions, centred on the labelled pixels.

    It is moved where it would leave the image.
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


def _resized(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    shrinks = shape[0] * shape[1] < array.shape[0] * array.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(array, shape[::-1], interpolation=method))


def _resized_label(label: Bytes, shape: tuple[int, ...]) -> Bytes:
    """Return the label (h, w) in `shape`, by majority.

    The nearest pixel is not exact: halved, its label would be a quarter of a pixel off the image.
    """
    ids = np.unique(label)
    shares = [_resized((label == class_id).astype(np.float32), shape) for class_id in ids]
    return np.asarray(ids[np.argmax(shares, axis=0)])


def _instances(label: Bytes, grid: tuple[int, int]) -> Bytes:
    """Return a mosaic's instance map; objects that meet at the edge of two tiles stay two."""
    instance = np.zeros(label.shape, np.int64)
    count = 0
    for window in _tiles(grid, label.shape):
        own = instance_map(label[window]).astype(np.int64)
        real = (own > 0) & (own < IGNORE)
        instance[window] = np.where(real, own + count, own)
        count += int(own[real].max(initial=0))
    return np.minimum(instance, IGNORE).astype(np.uint8)
