"""Sheets: contact sheets and strips of images, encoded for pages and for Prefect's artifacts.

They are WebP files: a contact sheet takes a fifth of its size as PNG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.report.images import Image8

__all__ = ["ARTIFACT_BYTES", "Cell", "contact_sheet", "data_uri", "encode", "strip"]

# An image artifact is sent through Prefect's API and kept in its database, so it has to be small:
# 300 kB as a `data:` URI.
ARTIFACT_BYTES = 300_000 * 3 // 4 - 100
_GAP = 10  # pixels between the cells of a contact sheet
_CAPTION = 18  # height of a caption, pixels
_BAR = 3  # width of a verdict's bar, pixels
_VERDICTS = {True: (46, 125, 88), False: (190, 70, 50)}
_QUALITIES = (82, 70, 58, 45)  # of WebP; tried in this order before a sheet is made smaller


@dataclass(frozen=True)
class Cell:
    """One sample of a contact sheet: images of one height, a caption, and the verdict if any."""

    tiles: Sequence[Image8]
    caption: str = ""
    kept: bool | None = None


def strip(tiles: Sequence[Image8], gap: int = 2) -> Image8:
    """Return images of one height side by side, with `gap` white pixels between them."""
    space = np.full((tiles[0].shape[0], gap, 3), 255, np.uint8)
    spaced = [part for tile in tiles for part in (space, tile)]
    return np.concatenate(spaced[1:], axis=1)


def contact_sheet(cells: Sequence[Cell], *, columns: int = 3, limit: int = ARTIFACT_BYTES) -> bytes:
    """Return cells in rows of `columns`, captions below, as a WebP image of at most `limit` bytes.

    A cell with a verdict has a green or red bar at its left. Raises `ValueError` without cells.
    """
    if not cells:
        raise ValueError("a contact sheet needs at least one cell")
    framed = [_framed(cell) for cell in cells]
    height, width = (max(image.shape[axis] for image in framed) for axis in (0, 1))
    rows = -(-len(cells) // columns)
    shape = (rows * (height + _GAP) + _GAP, min(columns, len(cells)) * (width + _GAP) + _GAP, 3)
    sheet = np.full(shape, 255, np.uint8)
    for number, image in enumerate(framed):
        row, column = divmod(number, columns)
        top = _GAP + row * (height + _GAP)
        left = _GAP + column * (width + _GAP)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return encode(sheet, limit)


def _framed(cell: Cell) -> Image8:
    """Return a cell's images with its caption below and its verdict's bar at the left."""
    tiles = strip(cell.tiles)
    canvas = Image.new("RGB", (tiles.shape[1] + 2 * _BAR, tiles.shape[0] + _CAPTION), "white")
    canvas.paste(Image.fromarray(tiles), (2 * _BAR, 0))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_CAPTION - 5)
    if cell.kept is not None:
        draw.rectangle((0, 0, _BAR - 1, tiles.shape[0] - 1), fill=_VERDICTS[cell.kept])
    caption = _shortened(cell.caption, font, tiles.shape[1])
    draw.text((2 * _BAR, tiles.shape[0] + 1), caption, fill=(60, 58, 54), font=font)
    return np.asarray(canvas)


def _shortened(text: str, font: Any, width: int) -> str:
    """Return as much of the text as fits into `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    beginnings = (f"{text[:end]}…" for end in range(len(text), 0, -1))
    return next((each for each in beginnings if font.getlength(each) <= width), "")


def encode(pixels: Image8, limit: int | None = None) -> bytes:
    """Return an image as WebP. To stay under `limit` bytes, quality is lowered first, then size."""
    image = Image.fromarray(pixels)
    while True:
        for data in (_webp(image, quality) for quality in _QUALITIES):
            if limit is None or len(data) <= limit or min(image.size) < 16:
                return data
        size = image.width * 3 // 4, image.height * 3 // 4
        image = image.resize(size, Image.Resampling.LANCZOS)


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)  # 4: twice the time, 6 % fewer bytes
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    """Return an encoded image as a `data:` URI, for a page or for Prefect's image artifacts.

    Raises `ValueError` for bytes that are not WebP, PNG or JPEG.
    """
    kinds = {
        b"RIFF": "webp",
        b"\x89PNG": "png",
        b"\xff\xd8\xff\xe0": "jpeg",
        b"\xff\xd8\xff\xdb": "jpeg",
    }
    kind = kinds.get(data[:4])
    if kind is None:
        raise ValueError(f"bytes {data[:4]!r} begin no WebP, PNG or JPEG; encode the image first")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
