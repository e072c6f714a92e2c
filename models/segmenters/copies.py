"""Copy-paste: an object of another sample laid over a training picture, by the code that composes scenes.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation"; theirs are not
harmonised or feathered.
"""

from __future__ import annotations

from collections.abc import Container, Sized
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.scenes import Cutout, compose_scene, cut_objects

__all__ = ["paste_object"]

SAMPLES_TRIED = 8  # in search of one with an object to cut out


def paste_object(
    image: Tensor, label: Tensor, source: Dataset[Any], class_ids: Container[int], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) and label (H, W) uint8 with one object of `class_ids` from a random sample of `source` in it.

    They stay as they are if none of the samples tried has one that can be cut out.
    """
    cutouts = _random_object(source, class_ids, rng)
    scene = compose_scene(_pixels(image), label.numpy(), cutouts, rng)
    return torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(), torch.from_numpy(scene.label)


def _random_object(source: Dataset[Any], class_ids: Container[int], rng: np.random.Generator) -> list[Cutout]:
    for index in rng.integers(len(cast(Sized, source)), size=SAMPLES_TRIED):
        other = source[int(index)]
        if found := cut_objects(_pixels(other["image"]), other["label"].numpy(), class_ids):
            return [found[int(rng.integers(len(found)))]]
    return []


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
