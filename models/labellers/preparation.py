"""Preparation: an image at the size and in the range that a model was trained on.

The directory's preprocessor_config.json says how, read as data. transformers' own processors of
SAM 2 and SAM 3 need torchvision, which this does without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.labellers.checks import LabellerError
from models.pretrained import read_json

__all__ = ["HALVES", "IMAGENET", "Preparation", "read_preparation", "squared"]

_SIDES = range(16, 4097)  # pixels; SAM 3, the largest of these models, takes 1008
_SMALLEST = 1e-6  # of what images are divided by
_MOST = 1e6  # of what is subtracted from them
_MODES = {2: "bilinear", 3: "bicubic"}  # by PIL's numbers


class Statistics(NamedTuple):
    """Mean and standard deviation of the three channels of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a model's input.

    `size` is its height and width. With `keep` they are the least short and the largest long side,
    and the proportions stay. The channels are normalised by `statistics`. `mode` is that of
    `torch.nn.functional.interpolate`.
    """

    size: tuple[int, int]
    statistics: Statistics
    keep: bool = False
    mode: str = "bilinear"

    def __call__(self, image: Tensor) -> Tensor:
        """Return an image (H, W, 3) uint8 as (1, 3, h, w) float32."""
        pixels = image.permute(2, 0, 1)[None].float()
        size = self._kept(image.shape[0], image.shape[1]) if self.keep else self.size
        resized = F.interpolate(pixels, size, mode=self.mode, align_corners=False, antialias=True)
        mean, std = (torch.tensor(each, device=image.device) for each in self.statistics)
        shares = resized.round().clamp(0, 255) / 255  # whole levels, as processors of images have
        return (shares - mean[:, None, None]) / std[:, None, None]

    def _kept(self, height: int, width: int) -> tuple[int, int]:
        short, long = self.size
        scale = min(short / min(height, width), long / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # [0, 1] becomes [-1, 1]


def read_preparation(folder: Path, default: Preparation) -> Preparation:
    """Return the preparation of a directory; what it does not say is that of `default`.

    Raises `LabellerError` for a field that cannot be used.
    """
    file = folder / "preprocessor_config.json"
    found: Any = read_json(file, LabellerError) if file.is_file() else {}
    if not found and (folder / "processor_config.json").is_file():
        file = folder / "processor_config.json"
        found = read_json(file, LabellerError).get("image_processor")
    given = found.items() if isinstance(found, Mapping) else ()
    found = {name: value for name, value in given if value is not None}
    size, keep = _size(file, found["size"]) if found.get("size") else (default.size, default.keep)
    mode = found.get("resample", 2)
    if not isinstance(mode, int) or mode not in _MODES:
        raise _refusal(file, "resample", mode, "2 (bilinear) or 3 (bicubic)")
    for name, usual in (("do_resize", True), ("do_rescale", True), ("rescale_factor", 1 / 255)):
        value = found.get(name, usual)
        if not isinstance(value, int | float) or not math.isclose(value, usual, rel_tol=1e-6):
            raise _refusal(file, name, value, f"{usual:g}, which is all that is supported")
    return Preparation(size, _statistics(file, found, default.statistics), keep, _MODES[mode])


def _statistics(file: Path, found: Mapping[str, Any], default: Statistics) -> Statistics:
    normalises = found.get("do_normalize", True)
    if not isinstance(normalises, bool):
        raise _refusal(file, "do_normalize", normalises, "true or false")
    if not normalises:
        return Statistics((0.0,) * 3, (1.0,) * 3)
    return Statistics(
        _three(file, "image_mean", found.get("image_mean", default.mean), -_MOST),
        _three(file, "image_std", found.get("image_std", default.std), _SMALLEST),
    )


def squared(preparation: Preparation, folder: Path, side: Any) -> Preparation:
    """Return the preparation to squares of the one side that a model's config.json allows.

    `side` is its image_size. Raises `LabellerError` for one that is no usable number.
    """
    first = side[0] if isinstance(side, list | tuple) and len(set(side)) == 1 else side
    if type(first) is not int or first not in _SIDES:
        wanted = f"one number, {_SIDES[0]} to {_SIDES[-1]} pixels"
        raise _refusal(folder / "config.json", "image_size", side, wanted)
    return replace(preparation, size=(first, first), keep=False)


def _size(file: Path, given: Any) -> tuple[tuple[int, int], bool]:
    """Return the two sides of the field `size`, and whether proportions are kept."""
    table = {"height": given, "width": given} if isinstance(given, int) else given
    sides = {name: side for name, side in table.items() if side} if isinstance(table, dict) else {}
    for keep, names in enumerate((("height", "width"), ("shortest_edge", "longest_edge"))):
        if sides.keys() == set(names):
            first, second = (sides[name] for name in names)
            if all(type(side) is int and side in _SIDES for side in (first, second)):
                return (first, second), bool(keep)
    wanted = "height and width, or shortest_edge and longest_edge"
    raise _refusal(file, "size", given, f"{wanted}, {_SIDES[0]} to {_SIDES[-1]} pixels")


def _three(file: Path, field: str, value: Any, least: float) -> tuple[float, ...]:
    fits = isinstance(value, list | tuple) and len(value) == 3
    if not fits or not all(
        isinstance(each, int | float) and least <= each <= _MOST for each in value
    ):
        raise _refusal(file, field, value, f"three numbers from {least:g} to {_MOST:g}")
    return tuple(map(float, value))


def _refusal(file: Path, field: str, value: Any, wanted: str) -> LabellerError:
    return LabellerError(f"{file}: {field} is {ascii(value)[:60]}; give {wanted}")
