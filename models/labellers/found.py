"""What a labeller finds: a map of scores and a certainty for each phrase."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["INSIDE", "Found", "Labeller", "gather", "join"]

INSIDE = 0.5  # of a sigmoid: where all four models put the edge of a mask


class Found(NamedTuple):
    """Scores (C, H, W) float32 on the CPU, and certainty, of C phrases, all in [0, 1].

    A score over 0.5 means that the pixel shows the phrase. Certainty is the model's own measure of
    its mask. A phrase that is not found has scores of 0 and certainty 0.
    """

    scores: Tensor
    certainty: tuple[float, ...]


class Labeller(Protocol):
    """A model that finds phrases in an image."""

    def find(self, image: Tensor, phrases: Sequence[str], maps: Tensor | None = None) -> Found:
        """Find each of C phrases in an image (H, W, 3) uint8, independently of the others.

        `maps` (C, r, r) are the phrases' attention, for models that can start from it. Raises
        `LabellerError` for a phrase that is longer than the model's text encoder takes.
        """
        ...


def join(logits: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, float]:
    """Return one map (H, W) float32 of a phrase's masks, and the mean of their scores.

    `logits` (N, h, w) are those of the masks, `scores` (N,) how sure the model is of each. Without
    a pixel over 0.5, also where values are NaN, all scores and the certainty are 0.
    """
    if len(logits):
        highest = logits.float().amax(0)[None, None]
        found = F.interpolate(highest, size, mode="bilinear", align_corners=False)[0, 0].sigmoid()
        if found.isfinite().all() and (found > INSIDE).any():
            return found.cpu(), float(scores.float().mean().clamp(0, 1))
    return torch.zeros(size), 0.0


def gather(parts: Iterable[tuple[Tensor, float]], size: tuple[int, int]) -> Found:
    """Return what was found for several phrases, in their order, in an image of size (H, W)."""
    found = [*parts]
    maps = [scores for scores, _ in found]
    scores = torch.stack(maps) if maps else torch.zeros(0, *size)
    return Found(scores, tuple(certainty for _, certainty in found))
