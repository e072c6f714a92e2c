"""Copy-paste augmentation: an object of another sample, pasted by the code that composes scenes.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation". Their objects are not harmonised or feathered; these are.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.scenes import Cutout, compose_scene, cut_objects

__all__ = ["paste_object"]

SAMPLES_TRIED = 24  # until one has an object of the class


def paste_object(
    image: Tensor,
    label: Tensor,
    source: Dataset[Any],
    class_ids: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Paste one object into an image (3, H, W) and its label (H, W), both uint8.

    The class is drawn evenly from `class_ids`, the object from a random sample of `source`. If no
    sample that was tried has such an object, nothing is pasted. With classes drawn as often as they
    occur in `source`, a segmenter had mIoU 0.800 instead of 0.811 (one seed).
    """
    cutouts = _random_object(source, int(rng.choice(class_ids)), rng)
    scene = compose_scene(_pixels(image), label.numpy(), cutouts, rng)
    pixels = torch.from_numpy(scene.image).permute(2, 0, 1).contiguous()
    return pixels, torch.from_numpy(scene.label)


def _random_object(source: Dataset[Any], class_id: int, rng: np.random.Generator) -> list[Cutout]:
    for index in rng.integers(len(cast(Sized, source)), size=SAMPLES_TRIED):
        other = source[int(index)]
        if not (other["label"] == class_id).any():
            continue
        if found := cut_objects(_pixels(other["image"]), other["label"].numpy(), [class_id]):
            return [found[int(rng.integers(len(found)))]]
    return []


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
