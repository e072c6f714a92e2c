"""Image and spread attention → label map: normalise, find the split, follow the image's edges, leave a band unsure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.masks.labels import label_maps, otsu
from models.masks.pamr import pamr

__all__ = ["Refined", "object_scores", "refine_labels"]


class Refined(NamedTuple):
    """Labels (B, H, W) uint8; confidence and consistency (B,) float32 in [0, 1].

    Confidence is the mean lead of the winning class over the labelled pixels. Consistency is the IoU of the foreground
    before and after the image's edges were followed: attention and image agree where it is high.
    """

    label: Tensor
    confidence: Tensor
    consistency: Tensor


def object_scores(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores in [0, 1] of ground and C classes, (B, 1 + C, H, W), from maps (B, C + 1, r, r), the ground's last.

    Each map is divided by its maximum; the ground's is subtracted from every class's, since what attends to the ground
    is not the object; and the split between object and ground is Otsu's, moved to 0.5.
    """
    maps = F.interpolate(maps.float(), size=size, mode="bicubic", align_corners=False).clamp_min(0)
    maps = maps / maps.amax((-1, -2), keepdim=True).clamp_min(1e-12)
    lead = maps[:, :-1] - maps[:, -1:]
    low, high = lead.amin((1, 2, 3), keepdim=True), lead.amax((1, 2, 3), keepdim=True)
    lead = (lead - low) / (high - low).clamp_min(1e-12)
    split = otsu(lead.amax(1).flatten(1))[:, None, None, None]
    above = torch.where(lead > split, 0.5 + 0.5 * (lead - split) / (1 - split), 0.5 * lead / split)
    return torch.cat([1 - above.amax(1, keepdim=True), above], 1)


def refine_labels(images: Tensor, maps: Tensor, ids: Sequence[int], *, iterations: int, band: float) -> Refined:
    """Label images (B, H, W, 3) uint8 by maps (B, C + 1, r, r) of C classes with these ids, and of the ground.

    Without a class every pixel is ground. `iterations` of PAMR follow the image's edges; pixels whose winner leads by
    less than `band` are 255.
    """
    height, width = images.shape[1:3]
    if not ids:
        blank = torch.zeros(len(images), height, width, dtype=torch.uint8)
        return Refined(blank, torch.ones(len(images)), torch.ones(len(images)))
    before = object_scores(maps, (height, width))
    after = pamr(images.permute(0, 3, 1, 2).float() / 255, before, iterations)
    channel_ids = torch.tensor([0, *ids]).expand(len(images), -1)
    label, lead = label_maps(after, channel_ids, band)
    inside = (label > 0) & (label < 255)
    confidence = (lead * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
    first, second = before.argmax(1) > 0, after.argmax(1) > 0
    union = (first | second).sum((1, 2)).clamp_min(1)
    return Refined(label, confidence, (first & second).sum((1, 2)) / union)
