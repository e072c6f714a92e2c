"""The drawn world in another style: the same scenes and labels, other colours, textures and light.

For measuring what a model does outside of the style that it was trained on. Grounds and objects are
filled with dead leaves (Lee, Mumford & Huang 2001, "Occlusion Models for Natural Images") and 1/f
noise, as photographs have them, in palettes that may overlap. Of an object's drawing its outline
and the light and dark of its parts remain.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models.embedded.drawing import Drawing
from models.embedded.textures import smooth_noise

__all__ = ["restyle"]

_LEAVES = 260  # enough to cover nearly all of an image with leaves of a few pixels
_RADII = ((2.0, 18.0), (10.0, 48.0))  # pixels: a fine texture and a coarse one
_CHROMA = 0.13  # standard deviation of a palette's mean colour around grey
_SHARED = 0.3  # of an object's colours are the ground's, at most
_CELLS = (1, 2, 4, 8, 16, 32, 64)  # pixels of the grains that 1/f noise is summed from
_DETAIL = (0.5, 0.9)  # of the contrast between an object's parts that remains
_SOFT = 0.6  # pixels, standard deviation of an object's edge

Image = NDArray[np.float32]


def restyle(drawing: Drawing, seed: int) -> Drawing:
    """Return the drawing with another image; label, instances and scene are the same.

    The image depends on the drawing and the seed alone.
    """
    rng = np.random.default_rng([seed, 29])
    size = drawing.label.shape[0]
    ground = _palette(rng)
    image = _texture(rng, size, ground)
    for number in np.unique(drawing.instance[drawing.instance > 0]):
        mask = drawing.instance == number
        paint = _texture(rng, size, _palette(rng, ground)) * _relief(rng, drawing.image, mask)
        edge = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), _SOFT)[..., None]
        image += (paint - image) * edge
    return replace(drawing, image=_photographed(rng, image))


def _palette(rng: np.random.Generator, shared: Image | None = None) -> Image:
    """Return three to seven colours (n, 3) in [0, 1] around one, some of them of `shared`."""
    centre = rng.uniform(0.15, 0.85) + rng.normal(0, _CHROMA, 3)
    colours = centre + rng.normal(0, rng.uniform(0.04, 0.14), (rng.integers(3, 8), 3))
    if shared is not None:
        taken = rng.random(len(colours)) < rng.uniform(0, _SHARED)
        colours[taken] = shared[rng.integers(len(shared), size=int(taken.sum()))]
    return np.clip(colours, 0.02, 0.98).astype(np.float32)


def _texture(rng: np.random.Generator, size: int, palette: Image) -> Image:
    """Return dead leaves of a palette with 1/f noise, (size, size, 3) float32, about [0, 1]."""
    low, high = _RADII[rng.integers(len(_RADII))]
    canvas = np.full((size, size, 3), palette[0], np.float32)
    # areas follow a power law, so that leaves look alike at every scale
    radii = 1 / np.sqrt(rng.uniform(1 / high**2, 1 / low**2, _LEAVES))
    for radius in radii:
        x, y = (int(v) for v in rng.integers(0, size, 2))
        axes = (max(1, round(radius)), max(1, round(radius * rng.uniform(0.4, 1))))
        colour = palette[rng.integers(len(palette))] + rng.normal(0, 0.03, 3)
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(canvas, (x, y), axes, angle, 0, 360, tuple(map(float, colour)), -1)
    strength = np.float32(rng.uniform(0.02, 0.1))
    return np.asarray(canvas + strength * _pink(rng, size, 1.0)[..., None], np.float32)


def _pink(rng: np.random.Generator, size: int, slope: float) -> Image:
    """Return noise (size, size) of unit variance, with more power in coarser grains for a `slope`.

    Octaves of equal power have the spectrum of 1/f noise.
    """
    parts = [smooth_noise(rng, size, size, c, c) * np.float32(c ** (slope - 1)) for c in _CELLS]
    total = np.sum(parts, 0)
    return np.asarray(total / total.std(), np.float32)


def _relief(rng: np.random.Generator, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image:
    """Return factors (H, W, 1) around 1: how light each part of an object is, in its drawing."""
    grey = image.astype(np.float32).mean(-1)
    inside = grey[mask]
    factors = 1 + np.float32(rng.uniform(*_DETAIL)) * (grey / max(1.0, float(inside.mean())) - 1)
    return np.where(mask, np.clip(factors, 0.3, 1.8), 1)[..., None].astype(np.float32)


def _photographed(rng: np.random.Generator, image: Image) -> NDArray[np.uint8]:
    """Return the image under uneven light, through a lens and a sensor, as uint8."""
    size = image.shape[0]
    light = 1 + np.float32(rng.uniform(0, 0.25)) * _pink(rng, size, 2.0)[..., None]
    tint = rng.uniform(0.88, 1.12, 3).astype(np.float32)
    seen = cv2.GaussianBlur(np.clip(image * light * tint, 0, 1), (0, 0), rng.uniform(0.3, 0.8))
    # shot noise grows with the light, read noise does not
    shot, read = rng.uniform(0, 0.03), rng.uniform(0.003, 0.015)
    noise = rng.standard_normal(image.shape) * np.sqrt(shot**2 * seen + read**2)
    curve = np.clip(seen + noise, 0, 1) ** rng.uniform(0.8, 1.2)
    return np.asarray((255 * curve).round(), np.uint8)
