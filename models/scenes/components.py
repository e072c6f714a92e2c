"""Connected components of label maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["IGNORE", "Component", "components", "instance_map"]

IGNORE = 255
MOST_INSTANCES = IGNORE - 1
_CONNECTIVITY = 8  # diagonal neighbours are connected, so thin slanted parts stay one object


class Component(NamedTuple):
    """One component: class, number of pixels, box (top, left, height, width), mask in the box."""

    class_id: int
    area: int
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]


def components(label: NDArray[np.uint8]) -> Iterator[Component]:
    """Yield the components of a label map (H, W) by class, without 0 and 255, largest first."""
    for class_id in np.flatnonzero(np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE]):
        if class_id:
            yield from sorted(
                _of_class(label, int(class_id)), key=lambda component: -component.area
            )


def _of_class(label: NDArray[np.uint8], class_id: int) -> Iterator[Component]:
    count, ids, stats, _ = cv2.connectedComponentsWithStats(
        (label == class_id).view(np.uint8), connectivity=_CONNECTIVITY
    )
    for number in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[number])
        window: NDArray[Any] = ids[top : top + height, left : left + width]
        yield Component(class_id, area, (top, left, height, width), window == number)


def instance_map(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return instance ids (H, W) uint8 of a label map, 0 = background, 255 = ignored.

    Components are numbered from 1 in the order of `components`; those after the 254th are 255.
    """
    instance = np.where(label == IGNORE, label, 0).astype(np.uint8)
    for number, component in enumerate(components(label), 1):
        top, left, height, width = component.box
        window = instance[top : top + height, left : left + width]
        window[component.mask] = min(number, IGNORE)
    return instance
