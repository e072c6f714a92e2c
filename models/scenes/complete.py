"""Complete objects of a label map: those that nothing hides a part of."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.scenes.components import IGNORE, Component, components

__all__ = ["AROUND", "Bools", "Complete", "complete_objects"]

Bools = NDArray[np.bool_]

REACH = 0.06  # up to which 255 pixels belong to an object, as a share of the shorter side
AROUND = np.ones((3, 3), np.uint8)


class Complete(NamedTuple):
    """A complete object: its class, its surroundings in the map, and its masks in there.

    `solid` (h, w) are the pixels labelled as the object, `uncertain` (h, w) those of 255 around it.
    """

    class_id: int
    window: tuple[slice, slice]
    solid: Bools
    uncertain: Bools


def complete_objects(
    label: NDArray[np.uint8],
    class_ids: Container[int] = range(1, IGNORE),
    *,
    min_area: float = 0.01,
    max_area: float = 0.6,
    max_uncertain: float = 0.6,
    max_touching: float = 0.05,
) -> Iterator[Complete]:
    """Yield complete objects of `class_ids` in a label map (H, W), by class, the largest first.

    An object is a component of one class with `min_area` to `max_area` of the image that does not
    touch the border. At most `max_uncertain` of its area may be 255 around it, and at most
    `max_touching` of its outline may touch another class, which may hide a part of it.
    """
    reach = max(2, round(REACH * min(label.shape)))
    for component in components(label):
        small_enough = min_area <= component.area / label.size <= max_area
        if component.class_id not in class_ids or not small_enough:
            continue
        if not _off_border(component, label.shape):
            continue
        window, solid = _surroundings(component, label.shape, reach + 2)
        uncertain = _attached(solid, label[window] == IGNORE, reach)
        certain = uncertain.sum() <= max_uncertain * component.area
        if certain and _touching(solid, label[window], component.class_id) <= max_touching:
            yield Complete(component.class_id, window, solid, uncertain)


def _off_border(component: Component, shape: tuple[int, ...]) -> bool:
    top, left, height, width = component.box
    return top > 0 and left > 0 and top + height < shape[0] and left + width < shape[1]


def _surroundings(
    component: Component, shape: tuple[int, ...], margin: int
) -> tuple[tuple[slice, slice], Bools]:
    """Return the component's box with a margin, clipped to the image, and its mask in there."""
    top, left, height, width = component.box
    y, x = max(0, top - margin), max(0, left - margin)
    window = np.s_[
        y : min(shape[0], top + height + margin), x : min(shape[1], left + width + margin)
    ]
    solid = np.zeros((window[0].stop - y, window[1].stop - x), np.bool_)
    solid[top - y : top - y + height, left - x : left - x + width] = component.mask
    return window, solid


def _attached(solid: Bools, uncertain: Bools, reach: int) -> Bools:
    """Return uncertain pixels within `reach` steps of the object through uncertain pixels."""
    grown = ndimage.binary_dilation(solid, AROUND, reach, mask=uncertain | solid)
    return np.asarray(grown & uncertain)


def _touching(solid: Bools, label: NDArray[np.uint8], class_id: int) -> float:
    """Return the share of the outline, just outside the object, that is another class."""
    outline = label[ndimage.binary_dilation(solid, AROUND) & ~solid]
    return float(np.mean((outline != 0) & (outline != IGNORE) & (outline != class_id)))
