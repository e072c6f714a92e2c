"""Image and spread attention → label map.

Normalise, find the split, follow the image's edges, mark uncertain pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.masks.colours import grow_by_colour, split_by_colour
from models.masks.contours import tidy
from models.masks.labels import label_maps, otsu
from models.masks.pamr import pamr
from models.smoothing import smooth

__all__ = [
    "Refined",
    "attention_contrast",
    "colour_scores",
    "ground_alone",
    "object_scores",
    "refine_labels",
]


class Refined(NamedTuple):
    """Labels (B, H, W) uint8; confidence and consistency (B,) float32 in [0, 1].

    Confidence is the mean confidence (see `label_maps`) of the pixels labelled as an object.
    Consistency is the IoU of the foreground before and after following the image's edges; it is
    high where attention and image agree.
    """

    label: Tensor
    confidence: Tensor
    consistency: Tensor


def object_scores(maps: Tensor, size: tuple[int, int], words: Tensor | None = None) -> Tensor:
    """Return scores in [0, 1] of background and C classes, (B, 1 + C, H, W).

    `maps` are the classes' attention (B, C, r, r). Each is stretched to [0, 1], and Otsu's split
    between object and background is moved to 0.5. The attention of the background's own word does
    not help: subtracting it took label IoU from 0.76 to 0.43 on drawn scenes. `words`, the maps
    before spreading, separate several classes, because spreading mixes objects that look alike.
    With them a pixel's best class has the score of the object as a whole, the others less.
    """
    maps = F.interpolate(maps.float(), size=size, mode="bicubic", align_corners=False)
    low, high = maps.amin((-1, -2), keepdim=True), maps.amax((-1, -2), keepdim=True)
    lead = (maps - low) / (high - low).clamp_min(1e-12)
    split = otsu(lead.amax(1).flatten(1))[:, None, None, None]
    above = torch.where(lead > split, 0.5 + 0.5 * (lead - split) / (1 - split), 0.5 * lead / split)
    inside = above.amax(1, keepdim=True)
    return torch.cat(
        [1 - inside, above if words is None else inside * _rivalry(words.float(), size)], 1
    )


def attention_contrast(maps: Tensor) -> Tensor:
    """Return the least contrast (max − min) / max of an image's maps (B, C, r, r): (B,) in [0, 1].

    Labels only compare positions, so a word without an object in the image gets a label too. A low
    contrast shows that. Without a class it is 1.
    """
    if not maps.shape[1]:
        return torch.ones(len(maps))
    flat = maps.float().flatten(2)
    highest = flat.amax(-1)
    return ((highest - flat.amin(-1)) / highest.clamp_min(1e-12)).clamp(0, 1).amin(1)


def _rivalry(words: Tensor, size: tuple[int, int]) -> Tensor:
    """Return each class's odds against the pixel's best class, (B, C, H, W) in (0, 1].

    Computed from the smoothed, standardised maps. Share of object pixels whose best class is right,
    in generated images of two and of three classes:

    | by | two | three |
    |---|---|---|
    | these maps | 0.95 | 0.95 |
    | spread maps, standardised | 0.91 | 0.89 |
    | spread maps | 0.89 | 0.82 |
    """
    blurred = F.interpolate(smooth(words), size=size, mode="bicubic", align_corners=False)
    deviation = blurred.std((-1, -2), keepdim=True).clamp_min(1e-12)
    standard = (blurred - blurred.mean((-1, -2), keepdim=True)) / deviation
    return (standard - standard.amax(1, keepdim=True)).exp()


def refine_labels(
    images: Tensor,
    maps: Tensor,
    ids: Sequence[int],
    *,
    iterations: int,
    band: float,
    words: Tensor | None = None,
) -> Refined:
    """Label images (B, H, W, 3) uint8 by maps (B, C, r, r) of C classes with these ids.

    `words`: see `object_scores`. Without a class every pixel is background. Scores of attention and
    of colours are averaged, and `iterations` of PAMR follow the image's edges. Pixels whose
    confidence is below `band` are 255, and contours are tidied. Label IoU on drawn scenes:

    | colours and PAMR | colours | PAMR | neither |
    |---|---|---|---|
    | 0.88 | 0.87 | 0.86 | 0.76 |

    Growing the parts that attention missed, by colour, raised it further, from 0.91 to 0.95.
    """
    height, width = images.shape[1:3]
    if not ids:
        return ground_alone(images)
    before = object_scores(maps, (height, width), words)
    after = pamr(
        images.permute(0, 3, 1, 2).float() / 255,
        (before + colour_scores(images, before)) / 2,
        iterations,
    )
    channel_ids = torch.tensor([0, *ids]).expand(len(images), -1)
    label, lead = label_maps(after, channel_ids, band)
    inside = (label > 0) & (label < 255)
    confidence = (lead * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
    first, second = before.argmax(1) > 0, after.argmax(1) > 0
    union = (first | second).sum((1, 2)).clamp_min(1)
    return Refined(tidy(label), confidence, (first & second).sum((1, 2)) / union)


def ground_alone(images: Tensor) -> Refined:
    """Return the labels of images (B, H, W, 3) whose prompts name no class."""
    sure = torch.ones(len(images))
    return Refined(torch.zeros(images.shape[:3], dtype=torch.uint8), sure, sure)


def colour_scores(images: Tensor, scores: Tensor, *, grow: bool = True) -> Tensor:
    """Return scores (B, 1 + C, H, W) of 0 and 1: foreground by colour, its class by `scores`.

    `grow` adds the parts that attention missed.
    """
    foreground = 1 - scores[:, 0]
    inside = split_by_colour(images, grow_by_colour(images, foreground) if grow else foreground)
    winner = F.one_hot(scores[:, 1:].argmax(1), scores.shape[1] - 1).movedim(-1, 1)
    return torch.cat([1 - inside[:, None], winner * inside[:, None]], 1)
