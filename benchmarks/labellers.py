"""The steps from attention to label, one function for each, and how good their labels are.

Shapes in here: images (n, H, W, 3) uint8, attention maps (n, P, r, r), labels (n, H, W) uint8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, cat, from_numpy, full_like, tensor
from torch.nn import functional as F

from benchmarks.claims import CACHE
from benchmarks.masks import iou_of
from benchmarks.sources import LABELLING, key
from infra.settings import RefineSettings
from models.masks import (
    IGNORE,
    AffinityNet,
    colour_scores,
    label_maps,
    object_scores,
    pamr,
    refine_labels,
    walk_labels,
)

__all__ = [
    "DIFFUMASK",
    "WHOLE",
    "Examples",
    "Labels",
    "cache_path",
    "cached_labels",
    "label_ious",
    "labellers",
    "mean_iou",
]

Labels = NDArray[np.uint8]
# image, plain maps, spread maps and class ids of one example → label (1, H, W)
Labeller = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]

FIXED = 0.5  # of the map's maximum
WHOLE = "+ parts that attention missed"  # and contours made whole: the default way
DIFFUMASK = "DiffuMask: affinity, walk, CRF"


@dataclass(frozen=True)
class Examples:
    """Images, attention maps, class ids of each, and the reference labels to compare with."""

    images: NDArray[np.uint8]
    cross: NDArray[np.float16]
    spread: NDArray[np.float16]
    classes: list[list[int]]
    reference: Labels

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """Return 64 hex digits that depend on everything that labels are made from."""
        found = hashlib.sha256(repr(self.classes).encode())
        for array in (self.images, self.cross, self.spread):
            found.update(f"{array.shape}".encode() + array.tobytes())
        return found.hexdigest()


def labellers(net: AffinityNet) -> dict[str, Labeller]:
    """Return the steps by name, each with all before it; the last is DiffuMask's way instead."""
    return {
        "attention at a fixed threshold": _fixed,
        "+ a threshold per image": _split,
        "+ spread along self-attention": _spread_out,
        "+ the object's colours": _coloured,
        "+ edges (PAMR) and a band of 255": _followed,
        WHOLE: _whole,
        DIFFUMASK: lambda image, cross, spread, ids: (
            walk_labels(image, spread, ids, net, words=cross).label
        ),
    }


def _fixed(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
    maps = F.interpolate(cross, size=image.shape[1:3], mode="bicubic", align_corners=False)
    lead = maps / maps.amax((-1, -2), keepdim=True).clamp_min(1e-12)
    return _argmax(cat([full_like(lead[:, :1], FIXED), lead], 1), ids)


def _split(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
    return _argmax(object_scores(cross, _size(image)), ids)


def _spread_out(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
    return _argmax(object_scores(spread, _size(image), cross), ids)


def _coloured(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
    return _argmax(_with_colours(image, cross, spread), ids)


def _followed(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
    usual = RefineSettings()
    scores = _with_colours(image, cross, spread)
    edges = pamr(image.permute(0, 3, 1, 2).float() / 255, scores, usual.pamr_iterations)
    return _argmax(edges, ids, usual.ignore_band)


def _whole(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
    usual = RefineSettings()
    return refine_labels(
        image,
        spread,
        ids,
        iterations=usual.pamr_iterations,
        band=usual.ignore_band,
        words=cross,
    ).label


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _with_colours(image: Tensor, cross: Tensor, spread: Tensor) -> Tensor:
    scores = object_scores(spread, _size(image), cross)
    return (scores + colour_scores(image, scores, grow=False)) / 2


def _argmax(scores: Tensor, ids: list[int], band: float = 0.0) -> Tensor:
    return label_maps(scores, tensor([[0, *ids]]), band).label


def cached_labels(name: str, way: Labeller, examples: Examples) -> Labels:
    """Return the label of each example, read from the cache if the same code made it before.

    DiffuMask's way takes one second per four images.
    """
    known = (examples.digest(), RefineSettings().model_dump())
    path = cache_path(name, key(*known, code=_labelling_code()), ".npy")
    if not path.exists():
        np.save(path, _label_all(way, examples))
    return np.asarray(np.load(path))


@cache
def _labelling_code() -> str:
    return LABELLING.digest()


def _label_all(way: Labeller, examples: Examples) -> Labels:
    """Return every example's label; one without classes is all background."""
    labels = np.zeros(examples.images.shape[:3], np.uint8)
    for index, ids in enumerate(examples.classes):
        if ids:
            image = from_numpy(examples.images[index])[None]
            cross, spread = (
                from_numpy(maps[index][None, : len(ids)]).float()
                for maps in (examples.cross, examples.spread)
            )
            labels[index] = way(image, cross, spread, ids)[0].numpy()
    return labels


def cache_path(name: str, of: str, suffix: str) -> Path:
    """Return the path in the ablation's cache of what `name` made of `of`; its folder exists."""
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    path = CACHE / "ablation" / f"{slug}-{of}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def label_ious(labels: Labels, examples: Examples) -> dict[str, float]:
    """Return the mean IoU with the reference over the classes that prompts name.

    "one object" is of prompts that name one class, "several" of those that name more. Pixels of 255
    count as not labelled; "certain" is "one object" with these pixels left out.
    """
    one, several = (
        [i for i, classes in enumerate(examples.classes) if classes and (len(classes) > 1) == many]
        for many in (False, True)
    )
    certain = np.where(labels == IGNORE, IGNORE, examples.reference)
    return {
        "one object": mean_iou(labels, examples.reference, one, examples.classes),
        "certain": mean_iou(labels, certain, one, examples.classes),
        "several": mean_iou(labels, examples.reference, several, examples.classes),
    }


def mean_iou(
    labels: Labels, reference: Labels, rows: Sequence[int], classes: Sequence[Sequence[int]]
) -> float:
    """Return the mean IoU over the given rows and their classes."""
    return float(np.mean([iou_of(labels[r], reference[r], c) for r in rows for c in classes[r]]))
