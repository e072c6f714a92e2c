"""Backgrounds of the drawn world: six textures made of seeded noise.

All of it is numpy arithmetic; no filter is used whose result depends on the processor. Banks of
noise are made once per process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUNDS", "smooth_noise"]

Image = NDArray[np.float32]
_BANK = 512  # side of a bank of noise; an image uses a random window of it


@cache
def _bank(cell_y: int, cell_x: int) -> NDArray[np.float32]:
    """Return periodic noise of unit variance with grains of (cell_y, cell_x) pixels."""
    rng = np.random.Generator(np.random.PCG64([7, cell_y, cell_x]))
    grid = rng.standard_normal((_BANK // cell_y, _BANK // cell_x)).astype(np.float32)
    for axis, cell in ((0, cell_y), (1, cell_x)):
        nxt = np.roll(grid, -1, axis)
        steps = [grid + (nxt - grid) * np.float32(k / cell) for k in range(cell)]
        grid = np.stack(steps, axis + 1).reshape(*grid.shape[:axis], -1, *grid.shape[axis + 1 :])
    return np.asarray(grid / grid.std(), np.float32)


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cell_y: int, cell_x: int
) -> NDArray[np.float32]:
    """Return a window (height, width) float32 of unit-variance noise.

    Its grains measure (cell_y, cell_x) pixels, powers of two.
    """
    y, x = rng.integers(0, _BANK - height), rng.integers(0, _BANK - width)
    return _bank(cell_y, cell_x)[y : y + height, x : x + width]


def _paint(
    base: tuple[int, int, int],
    light: NDArray[np.float32],
    tint: tuple[float, float, float] = (1, 1, 1),
) -> Image:
    return np.asarray(
        np.array(base, np.float32) + light[..., None] * np.array(tint, np.float32), np.float32
    )


def _grass(rng: np.random.Generator, size: int) -> Image:
    blades, patches = smooth_noise(rng, size, size, 8, 1), smooth_noise(rng, size, size, 32, 32)
    return _paint((86, 142, 58), 17 * blades + 10 * patches, (0.8, 1.0, 0.5))


def _sand(rng: np.random.Generator, size: int) -> Image:
    y = np.arange(size, dtype=np.float32)[:, None]
    warp = smooth_noise(rng, size, size, 32, 64)
    ripples = np.sin(y * np.float32(rng.uniform(0.35, 0.6)) + 2 * warp)
    return _paint(
        (212, 184, 132), 8 * ripples + 6 * smooth_noise(rng, size, size, 1, 1), (1.0, 0.95, 0.8)
    )


def _water(rng: np.random.Generator, size: int) -> Image:
    y = np.arange(size, dtype=np.float32)[:, None]
    warp = smooth_noise(rng, size, size, 16, 32)
    waves = np.sin(y * np.float32(rng.uniform(0.5, 0.8)) + 1.5 * warp) + smooth_noise(
        rng, size, size, 4, 16
    ) * np.float32(0.6)
    return _paint((52, 112, 172), 16 * waves, (0.8, 1.0, 1.0))


def _snow(rng: np.random.Generator, size: int) -> Image:
    drifts = smooth_noise(rng, size, size, 32, 64)
    return _paint(
        (230, 236, 246), 8 * drifts + 3 * smooth_noise(rng, size, size, 1, 1), (1.0, 0.9, 0.6)
    )


def _bricks(rng: np.random.Generator, size: int) -> Image:
    height, width = int(rng.integers(11, 17)), int(rng.integers(24, 34))
    y = np.arange(size) + int(rng.integers(0, height))
    x = np.arange(size) + int(rng.integers(0, width))
    row = y // height
    column = (x[None, :] + (row % 2)[:, None] * (width // 2)) // width
    shade = rng.standard_normal((row.max() + 1, column.max() + 1)).astype(np.float32)[
        row[:, None], column
    ]
    image = _paint((158, 84, 66), 12 * shade + 6 * smooth_noise(rng, size, size, 2, 2))
    inside = ((y % height) >= 2)[:, None] & (
        ((x[None, :] + (row % 2)[:, None] * (width // 2)) % width) >= 2
    )
    image[~inside] = np.float32(rng.uniform(170, 200))
    return image


def _wood(rng: np.random.Generator, size: int) -> Image:
    width = int(rng.integers(16, 26))
    x = np.arange(size) + int(rng.integers(0, width))
    plank = x // width
    shade = rng.standard_normal(plank.max() + 1).astype(np.float32)[plank][None, :]
    image = _paint(
        (150, 106, 66), 9 * shade + 9 * smooth_noise(rng, size, size, 64, 2), (1.0, 0.85, 0.65)
    )
    image[:, (x % width) == 0] *= np.float32(0.6)
    return image


GROUNDS: dict[str, Callable[[np.random.Generator, int], Image]] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "snow": _snow,
    "bricks": _bricks,
    "wood": _wood,
}
