"""Images of samples: label overlays, attention heat maps and curves, as arrays."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from models.metrics import IGNORE

__all__ = [
    "Colour",
    "Image8",
    "Palette",
    "attention_heat",
    "blank",
    "curve_tile",
    "default_colour",
    "enlarge",
    "overlay",
]

Image8 = NDArray[np.uint8]  # (H, W, 3) RGB
Colour = tuple[int, int, int]
Palette = Mapping[int, Colour]

_TINT = 0.62  # share of the class colour over an object's grey
_FADE = 0.35  # share of grey over the background, so that objects stand out
# Turn of the colour circle from one class id to the next, the golden section, which keeps the
# colours of neighbouring ids apart.
_GOLDEN = 0.618034
# Dark violet to pale yellow, of rising lightness, so that it can be read in grey print too.
_HEAT = np.array(
    [
        (12, 8, 38),
        (56, 16, 98),
        (110, 26, 120),
        (165, 44, 110),
        (214, 72, 78),
        (244, 120, 44),
        (252, 180, 60),
        (252, 246, 190),
    ],
    np.float32,
)


def default_colour(class_id: int) -> Colour:
    """Return a colour for a class whose vocabulary entry has no palette."""
    red, green, blue = colorsys.hls_to_rgb(class_id * _GOLDEN % 1, 0.52, 0.68)
    return round(red * 255), round(green * 255), round(blue * 255)


def overlay(
    image: Image8,
    label: NDArray[np.uint8],
    palette: Palette,
    edges: NDArray[np.uint8] | None = None,
) -> Image8:
    """Return the image (H, W, 3) under its label map (H, W).

    Objects are tinted and outlined, the background is faded, ignored pixels (255) are hatched.
    Outlines are the borders in `edges` (H, W), such as an instance map; None takes the label. An id
    without a colour in `palette` gets `default_colour`. Raises `ValueError` if the sizes differ.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"image {image.shape[:2]} and label {label.shape} differ in size; "
            "enlarge both to one size"
        )
    colours = np.array([palette.get(i, default_colour(i)) for i in range(256)], np.float32)
    out = image.astype(np.float32)
    grey = out.mean(-1, keepdims=True)
    objects = (label > 0) & (label < IGNORE)
    ignored = label == IGNORE
    out = np.where((label == 0)[..., None], out + _FADE * (0.5 * grey + 110 - out), out)
    out[objects] = (1 - _TINT) * grey[objects] + _TINT * colours[label[objects]]
    out[ignored] = _hatched(grey)[ignored]
    edge = _border(label if edges is None else edges) & objects
    out[edge] = 255 - 0.25 * (255 - colours[label[edge]])
    return np.clip(out, 0, 255).astype(np.uint8)


def _hatched(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return diagonal stripes, dark and light grey, over a grey image (H, W, 1)."""
    width = max(2, grey.shape[0] // 48)
    y, x = np.indices(grey.shape[:2])
    stripe = np.where((x + y) // width % 2, 205, 92).astype(np.float32)[..., None]
    return np.repeat(0.3 * grey + 0.7 * stripe, 3, axis=-1)


def _border(ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels (H, W) next to another id: one pixel deep, two in large images."""
    reach = 3 if ids.shape[0] < 256 else 5
    return np.asarray(ndimage.maximum_filter(ids, reach) != ndimage.minimum_filter(ids, reach))


def attention_heat(
    attention: NDArray[np.floating[Any]],
    size: tuple[int, int],
    colours: Sequence[Colour] | None = None,
) -> Image8:
    """Return attention as an image of `size` = (height, width).

    `attention` is one map (r, r) or several (W, r, r). Each is scaled from its minimum and maximum
    to [0, 1]. Several maps with `colours`, one per map, are added up in these colours. Otherwise
    the maximum over the maps is shown as a heat map. Values that are not finite count as 0, and a
    constant map is dark.
    """
    maps = attention[None] if attention.ndim == 2 else attention
    levels = np.zeros((max(1, len(maps)), *size), np.float32)
    for level, one in zip(levels, maps, strict=False):  # one dark level if there is no map
        level[:] = _scaled(one, size)
    if colours is None or len(maps) < 2:
        position = levels.max(0) * (len(_HEAT) - 1)
        low = np.minimum(position.astype(int), len(_HEAT) - 2)
        part = (position - low)[..., None]
        return np.asarray(_HEAT[low] * (1 - part) + _HEAT[low + 1] * part, np.uint8)
    bright = np.array(colours, np.float32) * [[255 / max(1, *colour)] for colour in colours]
    light = np.einsum("whk,wc->hkc", levels, bright)
    return np.asarray(np.clip(light + _HEAT[0] * (1 - levels.max(0))[..., None], 0, 255), np.uint8)


def _scaled(one: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a map (r, r) resized to `size` = (height, width) and scaled to [0, 1]."""
    values = np.nan_to_num(one.astype(np.float32), posinf=0, neginf=0)
    values -= values.min()
    values /= max(float(values.max()), 1e-12)
    resized = Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized, np.float32), 0, 1)


def curve_tile(
    curves: Sequence[NDArray[np.floating[Any]]], size: tuple[int, int], colours: Sequence[Colour]
) -> Image8:
    """Return curves of values in [0, 1] at equal distances, with a dot at each maximum."""
    fine = 3  # drawn larger and then reduced, so that lines are smooth
    margin = 0.08  # share of the tile's side
    height, width = (fine * side for side in size)
    tile = Image.new("RGB", (width, height), (250, 249, 245))
    pen = ImageDraw.Draw(tile)
    for level in (0.0, 0.5, 1.0):
        y = height * (1 - margin - (1 - 2 * margin) * level)
        pen.line([(width * margin, y), (width * (1 - margin), y)], (214, 210, 200), fine)
    for values, colour in zip(curves, colours, strict=True):
        x = width * np.linspace(margin, 1 - margin, len(values))
        y = height * (1 - margin - (1 - 2 * margin) * np.clip(values, 0, 1))
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), colour, 2 * fine, joint="curve")
        best = int(np.argmax(values))
        pen.circle((float(x[best]), float(y[best])), 4 * fine, colour)
    return np.asarray(tile.resize(size[::-1], Image.Resampling.LANCZOS))


def enlarge(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) or an id map (H, W) at another height, in proportion.

    Ids are never interpolated.
    """
    method = Image.Resampling.LANCZOS if image.ndim == 3 else Image.Resampling.NEAREST
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def blank(size: tuple[int, int]) -> Image8:
    """Return a hatched image of `size` = (height, width) in place of one that does not exist."""
    return _hatched(np.full((*size, 1), 160, np.float32)).astype(np.uint8)
