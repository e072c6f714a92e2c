"""Labelled sets that are not in a store: scenes of the drawn world, and sequences of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from models.embedded.restyle import restyle
from models.embedded.world import HELD_OUT, draw, vocabulary
from models.metrics import IGNORE
from models.segmenters.samples import LabelledItem

__all__ = ["ArraySet", "DrawnScenes", "translation"]


class Items(Protocol):
    """A sequence of {"image": (H, W, 3) uint8 RGB, "label": (H, W) uint8, "id": str}.

    `classes` names its label ids 0, 1, …
    """

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class DrawnScenes:
    """Scenes of the drawn world with exact labels, of `count` seeds from `first` on.

    Each is drawn once, then kept in memory. With `restyled` they are the same scenes in another
    style (`models.embedded.restyle`).
    """

    classes = ("background", *(entry["name"] for entry in vocabulary()["classes"]))

    def __init__(self, count: int, first: int = HELD_OUT, *, restyled: bool = False) -> None:
        self._count = count
        self._restyled = restyled
        self._first = first
        self._drawn: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index not in self._drawn:
            drawing = draw(self._first + index)
            if self._restyled:
                drawing = restyle(drawing, self._first + index)
            self._drawn[index] = {
                "image": drawing.image,
                "label": drawing.label,
                "id": str(self._first + index),
            }
        return self._drawn[index]


class ArraySet(Dataset[LabelledItem]):
    """Items of arrays as a labelled set of tensors, label ids translated by name to `classes`.

    `known` are the names in `classes` that the items can show, the background included.
    """

    def __init__(self, items: Items, classes: Sequence[str]) -> None:
        self._items = items
        self._table = translation(items.classes, classes)
        self.known = (classes[0], *(name for name in classes[1:] if name in items.classes))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> LabelledItem:
        item = self._items[index]
        image = torch.from_numpy(np.array(item["image"].transpose(2, 0, 1), order="C"))
        return {
            "image": image,
            "label": torch.from_numpy(self._table[item["label"]]),
            "id": item["id"],
        }


def translation(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return the id in `classes` of each label id 0..255 of a set with class `names`, (256,) uint8.

    Names that `classes` lacks become background; 255 stays. Raises `ValueError` if the two have no
    class but the background in common.
    """
    if not set(names) & set(classes[1:]):
        raise ValueError(
            f"no class in common: {', '.join(names)} here, "
            f"{', '.join(classes[1:])} in the segmenter; rename the set's classes in classes.txt"
        )
    table = np.zeros(IGNORE + 1, np.uint8)
    table[: len(names)] = [classes.index(name) if name in classes else 0 for name in names]
    table[IGNORE] = IGNORE
    return table
