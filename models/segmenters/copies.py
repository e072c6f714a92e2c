"""Copy-paste augmentation: an object of another sample, pasted by the code that composes scenes.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation". Their objects are not harmonised or feathered; these are.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from contextlib import suppress
from typing import Any, cast

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.scenes import Cutout, compose_scene, cut_objects

__all__ = ["Objects", "paste_object"]

SAMPLES_TRIED = 24  # until one has an object of the class
_REMEMBERED = 256e6  # bytes of objects per process; all of those of 4000 images of 128²
_OVERHEAD = 200  # bytes of an entry without an object, about


class Objects:
    """The objects of a labelled set, cut when they are needed.

    Those used last are remembered: cutting them took a fifth of a training of "segformer".
    """

    def __init__(self, samples: Dataset[Any]) -> None:
        self._samples = samples
        self._cut: LRUCache[tuple[int, int], list[Cutout]] = LRUCache(_REMEMBERED, _bytes)

    def __len__(self) -> int:
        return len(cast(Sized, self._samples))

    def of(self, index: int, class_id: int) -> list[Cutout]:
        """Return the complete objects of a class in a sample."""
        key = (index, class_id)
        found = self._cut.get(key)
        if found is None:
            sample = self._samples[index]
            found = cut_objects(_pixels(sample["image"]), sample["label"].numpy(), [class_id])
            with suppress(ValueError):  # larger than all that is remembered
                self._cut[key] = found
        return found


def paste_object(
    image: Tensor,
    label: Tensor,
    objects: Objects,
    class_ids: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Paste one object into an image (3, H, W) and its label (H, W), both uint8.

    The class is drawn evenly from `class_ids`, the object from a random sample of `objects`. If no
    sample that was tried has such an object, nothing is pasted. With classes drawn as often as they
    occur, a segmenter had mIoU 0.800 instead of 0.811 (one seed).
    """
    cutouts = _random_object(objects, int(rng.choice(class_ids)), rng)
    scene = compose_scene(_pixels(image), label.numpy(), cutouts, rng)
    pixels = torch.from_numpy(scene.image).permute(2, 0, 1).contiguous()
    return pixels, torch.from_numpy(scene.label)


def _random_object(objects: Objects, class_id: int, rng: np.random.Generator) -> list[Cutout]:
    for index in rng.integers(len(objects), size=SAMPLES_TRIED):
        if found := objects.of(int(index), class_id):
            return [found[int(rng.integers(len(found)))]]
    return []


def _bytes(cutouts: list[Cutout]) -> int:
    parts = [(each.colour, each.alpha, each.solid, each.uncertain) for each in cutouts]
    return _OVERHEAD + sum(array.nbytes for arrays in parts for array in arrays)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
