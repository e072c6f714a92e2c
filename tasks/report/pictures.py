"""Pictures of samples: label overlays, attention heat, contact sheets; with `data:` URIs for pages
and artifacts.

Pure functions on arrays. Photographs and sheets are encoded as WebP: a contact sheet is a fifth of
its size as PNG.
"""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

__all__ = [
    "ARTIFACT_BYTES",
    "IGNORE",
    "Cell",
    "Palette",
    "attention_heat",
    "blank",
    "contact_sheet",
    "curve_tile",
    "data_uri",
    "default_colour",
    "encode",
    "enlarge",
    "overlay",
    "strip",
]

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Colour = tuple[int, int, int]
Palette = Mapping[int, Colour]

IGNORE = 255
# An image artifact goes through Prefect's API and database, so it has to stay small: 300 kB as a
# `data:` URI.
ARTIFACT_BYTES = 300_000 * 3 // 4 - 100
_TINT = 0.62  # of the class colour over an object's grey
_FADE = 0.35  # of grey over the ground, so that objects stand out
_GOLDEN = (
    0.618034  # turn of the colour circle from one class id to the next that keeps neighbours apart
)
_GAP, _CAPTION, _BAR = (
    10,
    18,
    3,
)  # pixels of a contact sheet: between cells, below pictures, of a verdict's bar
_VERDICTS = {True: (46, 125, 88), False: (190, 70, 50)}
_QUALITIES = (82, 70, 58, 45)  # WebP; tried in this order before a sheet is made smaller
# Dark violet to pale yellow, ever lighter, so that it reads in grey print too.
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


@dataclass(frozen=True)
class Cell:
    """One sample of a contact sheet: pictures of one height side by side, a caption, and a mark
    (None: no verdict).
    """

    tiles: Sequence[Picture]
    caption: str = ""
    kept: bool | None = None


def default_colour(class_id: int) -> Colour:
    """A colour for a class whose vocabulary entry has no palette."""
    red, green, blue = colorsys.hls_to_rgb(class_id * _GOLDEN % 1, 0.52, 0.68)
    return round(red * 255), round(green * 255), round(blue * 255)


def overlay(
    image: Picture,
    label: NDArray[np.uint8],
    palette: Palette,
    edges: NDArray[np.uint8] | None = None,
) -> Picture:
    """The image (H, W, 3) under its label map (H, W): objects tinted and outlined, the ground
    faded, 255 hatched.

    `edges` (H, W) is the map whose borders are drawn, such as instances; the label itself if left
    out. An id without a colour in `palette` gets `default_colour`. Raises `ValueError` if the sizes
    differ.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"image {image.shape[:2]} and label {label.shape} differ in size; enlarge both to one size"
        )
    colours = np.array([palette.get(i, default_colour(i)) for i in range(256)], np.float32)
    out = image.astype(np.float32)
    grey = out.mean(-1, keepdims=True)
    objects, unsure = (label > 0) & (label < IGNORE), label == IGNORE
    out = np.where((label == 0)[..., None], out + _FADE * (0.5 * grey + 110 - out), out)
    out[objects] = (1 - _TINT) * grey[objects] + _TINT * colours[label[objects]]
    out[unsure] = _hatched(grey)[unsure]
    edge = _border(label if edges is None else edges) & objects
    out[edge] = 255 - 0.25 * (255 - colours[label[edge]])
    return np.clip(out, 0, 255).astype(np.uint8)


def _hatched(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey diagonal stripes, dark and light, over a (H, W, 1) picture."""
    width = max(2, grey.shape[0] // 48)
    y, x = np.indices(grey.shape[:2])
    stripe = np.where((x + y) // width % 2, 205, 92).astype(np.float32)[..., None]
    return np.repeat(0.3 * grey + 0.7 * stripe, 3, axis=-1)


def _border(ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (H, W) with another id beside them: one deep, two in large pictures."""
    reach = 3 if ids.shape[0] < 256 else 5
    return np.asarray(ndimage.maximum_filter(ids, reach) != ndimage.minimum_filter(ids, reach))


def attention_heat(
    attention: NDArray[np.floating[Any]],
    size: tuple[int, int],
    colours: Sequence[Colour] | None = None,
) -> Picture:
    """Attention as a picture (height, width, 3) of `size`, each map stretched from its least to its
    greatest value.

    One map (r, r), or several (W, r, r) at once; with `colours`, one for each, their lights add up
    on black, otherwise the strongest counts and is shown as heat. Values that are not finite count
    as 0; a constant map is dark.
    """
    maps = attention[None] if attention.ndim == 2 else attention
    levels = (
        np.stack([_stretched(one, size) for one in maps])
        if len(maps)
        else np.zeros((1, *size), np.float32)
    )
    if colours is None or len(maps) < 2:
        position = levels.max(0) * (len(_HEAT) - 1)
        low = np.minimum(position.astype(int), len(_HEAT) - 2)
        part = (position - low)[..., None]
        return np.asarray(_HEAT[low] * (1 - part) + _HEAT[low + 1] * part, np.uint8)
    bright = np.array(colours, np.float32) * [[255 / max(1, *colour)] for colour in colours]
    light = np.einsum("whk,wc->hkc", levels, bright)
    return np.asarray(np.clip(light + _HEAT[0] * (1 - levels.max(0))[..., None], 0, 255), np.uint8)


def curve_tile(
    curves: Sequence[NDArray[np.floating[Any]]], size: tuple[int, int], colours: Sequence[Colour]
) -> Picture:
    """Curves of values in [0, 1] over evenly spaced places, each in its colour with a dot at its
    maximum.
    """
    fine, margin = 3, 0.08  # drawn larger, then made smaller, so that lines are smooth
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


def _stretched(one: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (r, r) enlarged to `size` = (height, width) and stretched to [0, 1]."""
    values = np.nan_to_num(one.astype(np.float32), posinf=0, neginf=0)
    values -= values.min()
    values /= max(float(values.max()), 1e-12)
    picture = Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.clip(np.asarray(picture, np.float32), 0, 1)


def enlarge(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) or an id map (H, W) at another height, its proportions kept; ids are
    never blended.
    """
    method = Image.Resampling.LANCZOS if picture.ndim == 3 else Image.Resampling.NEAREST
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return np.asarray(Image.fromarray(picture).resize((width, height), method))


def blank(size: tuple[int, int]) -> Picture:
    """A hatched picture of `size` = (height, width) that stands for one that was never made."""
    return _hatched(np.full((*size, 1), 160, np.float32)).astype(np.uint8)


def strip(tiles: Sequence[Picture], gap: int = 2) -> Picture:
    """Pictures of one height side by side, white between them."""
    space = np.full((tiles[0].shape[0], gap, 3), 255, np.uint8)
    spaced = [part for tile in tiles for part in (space, tile)]
    return np.concatenate(spaced[1:], axis=1)


def contact_sheet(cells: Sequence[Cell], *, columns: int = 3, limit: int = ARTIFACT_BYTES) -> bytes:
    """Cells in rows of `columns`, captions below, as one WebP picture of at most `limit` bytes; at
    least one cell.

    A cell with a verdict has a green or red bar at its left. Raises `ValueError` if there is no
    cell.
    """
    if not cells:
        raise ValueError("a contact sheet needs at least one cell")
    pictures = [_framed(cell) for cell in cells]
    height, width = (max(p.shape[axis] for p in pictures) for axis in (0, 1))
    rows = -(-len(cells) // columns)
    sheet = np.full(
        (rows * (height + _GAP) + _GAP, min(columns, len(cells)) * (width + _GAP) + _GAP, 3),
        255,
        np.uint8,
    )
    for number, picture in enumerate(pictures):
        top, left = (
            _GAP + place * (side + _GAP)
            for place, side in zip(divmod(number, columns), (height, width), strict=True)
        )
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return encode(sheet, limit)


def _framed(cell: Cell) -> Picture:
    """A cell's strip with its caption below and its verdict's bar at the left."""
    pictures = strip(cell.tiles)
    canvas = Image.new("RGB", (pictures.shape[1] + 2 * _BAR, pictures.shape[0] + _CAPTION), "white")
    canvas.paste(Image.fromarray(pictures), (2 * _BAR, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_CAPTION - 5)
    if cell.kept is not None:
        draw.rectangle((0, 0, _BAR - 1, pictures.shape[0] - 1), fill=_VERDICTS[cell.kept])
    draw.text(
        (2 * _BAR, pictures.shape[0] + 1),
        _shortened(cell.caption, font, pictures.shape[1]),
        fill=(60, 58, 54),
        font=font,
    )
    return np.asarray(canvas)


def _shortened(text: str, font: Any, width: int) -> str:
    """As much of the text as `width` pixels hold."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    return next(
        (
            f"{text[:end]}…"
            for end in range(len(text), 0, -1)
            if font.getlength(f"{text[:end]}…") <= width
        ),
        "",
    )


def encode(picture: Picture, limit: int | None = None) -> bytes:
    """The picture as WebP; under a `limit` of bytes first its quality is lowered, then its size."""
    image = Image.fromarray(picture)
    while True:
        for data in (_webp(image, quality) for quality in _QUALITIES):
            if limit is None or len(data) <= limit or min(image.size) < 16:
                return data
        image = image.resize(
            (image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS
        )


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(
        buffer, "WEBP", quality=quality, method=2
    )  # 4 takes twice as long for 6 % fewer bytes
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    """An encoded picture as a `data:` URI, for a page or for Prefect's `create_image_artifact`.

    WebP, PNG or JPEG.
    """
    kinds = {
        b"RIFF": "webp",
        b"\x89PNG": "png",
        b"\xff\xd8\xff\xe0": "jpeg",
        b"\xff\xd8\xff\xdb": "jpeg",
    }
    kind = kinds.get(data[:4])
    if kind is None:
        raise ValueError(f"bytes {data[:4]!r} begin no WebP, PNG or JPEG; encode the picture first")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
