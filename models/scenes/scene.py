"""Scenes: several cutouts on one background, each mostly visible, with exact instance maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.scenes.blending import harmonise, paste
from models.scenes.components import IGNORE, MOST_INSTANCES, instance_map
from models.scenes.cutout import Bools, Cutout, transform

__all__ = ["Pasted", "Scene", "compose_scene"]

# Longer side of a single object, as a share of the image's shorter side. With n objects it is
# 1/sqrt(n) of that, as in the drawn world.
SIDES = (0.45, 0.80)
MOST_GROWTH = 1.25  # a larger enlargement of an object would show as blur
MIN_VISIBLE = 0.6  # share of each object; the drawn world has 0.55
TRIES = 20


@dataclass(frozen=True)
class Pasted:
    """Provenance of one object: the index of its cutout, its box in pixels, its visible share.

    `instance` is its value in the instance map and its rank from far to near; `visible` is in
    [0, 1].
    """

    source: int
    class_id: int
    instance: int
    top: int
    left: int
    height: int
    width: int
    scale: float
    flip: bool
    visible: float


@dataclass(frozen=True)
class Scene:
    """Image (H, W, 3), label (H, W) and instance ids (H, W), uint8, and the objects far to near.

    255 is ignored in both maps.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    instance: NDArray[np.uint8]
    objects: tuple[Pasted, ...]


class _Canvas:
    """A scene under construction."""

    def __init__(self, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        self.image, self.label, self.instance = image.copy(), label.copy(), instance_map(label)
        self.areas = self.visible()  # pixels of each instance as pasted (256,)
        self.count = int(self.instance[self.instance < IGNORE].max(initial=0))

    def visible(self) -> NDArray[np.int64]:
        """Return the number of visible pixels of each instance (256,)."""
        return np.bincount(self.instance.ravel(), minlength=IGNORE + 1)

    def leaves_visible(self, covered: Bools, top: int, left: int, share: float) -> bool:
        """Return whether each object keeps `share` of its pixels visible if these are covered."""
        window = self.instance[top : top + covered.shape[0], left : left + covered.shape[1]]
        hidden = np.bincount(window[covered], minlength=IGNORE + 1)
        known = np.s_[1 : self.count + 1]
        touched = hidden[known] > 0
        remaining = (self.visible()[known] - hidden[known]) >= share * self.areas[known]
        return bool(remaining[touched].all())

    def add(self, cutout: Cutout, top: int, left: int) -> int:
        """Paste the object and return its instance number."""
        window = np.s_[top : top + cutout.alpha.shape[0], left : left + cutout.alpha.shape[1]]
        self.count += 1
        paste(self.image, cutout, top, left)
        for target, value in ((self.label, cutout.class_id), (self.instance, self.count)):
            target[window][cutout.solid] = value
            target[window][cutout.uncertain] = IGNORE
        self.areas[self.count] = int(cutout.solid.sum())
        return self.count

    def around(self, cutout: Cutout, top: int, left: int) -> NDArray[np.uint8]:
        """Return uncovered background colours (N, 3) in the object's box, enlarged by half."""
        height, width = cutout.alpha.shape
        y, x = max(0, top - height // 4), max(0, left - width // 4)
        free = np.ones(self.label.shape, np.bool_)
        free[top : top + height, left : left + width] = cutout.alpha == 0
        window = np.s_[y : top + height + height // 4, x : left + width + width // 4]
        return np.asarray(self.image[window][free[window] & (self.label[window] == 0)])


def compose_scene(
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    cutouts: Sequence[Cutout],
    rng: np.random.Generator,
    *,
    min_visible: float = MIN_VISIBLE,
) -> Scene:
    """Paste the cutouts in order, later ones nearer, on an image (H, W, 3) with label (H, W).

    The image's own objects stay and keep their labels. Size, mirroring and position are drawn from
    `rng`. An object is left out if `TRIES` draws find no position where each other object keeps
    `min_visible` of its pixels visible.
    """
    canvas = _Canvas(image, label)
    crowd = len(cutouts) + canvas.count
    pasted = [
        _place(canvas, source, cutout, crowd, rng, min_visible)
        for source, cutout in enumerate(cutouts)
    ]
    visible = canvas.visible() / np.maximum(canvas.areas, 1)
    objects = tuple(
        replace(thing, visible=float(visible[thing.instance])) for thing in pasted if thing
    )
    return Scene(canvas.image, canvas.label, canvas.instance, objects)


def _place(
    canvas: _Canvas,
    source: int,
    cutout: Cutout,
    crowd: int,
    rng: np.random.Generator,
    min_visible: float,
) -> Pasted | None:
    """Paste the cutout where it hides no other object too much.

    Returns None if there is no such position, or no instance number left.
    """
    for _ in range(TRIES if canvas.count < MOST_INSTANCES else 0):
        scale = _draw_scale(cutout, canvas.label.shape, crowd, rng)
        flip = bool(rng.random() < 0.5)
        thing = transform(cutout, scale, flip=flip)
        height, width = thing.alpha.shape
        top, left = (
            int(rng.integers(room + 1)) for room in np.subtract(canvas.label.shape, (height, width))
        )
        if thing.solid.any() and canvas.leaves_visible(thing.covered, top, left, min_visible):
            number = canvas.add(harmonise(thing, canvas.around(thing, top, left)), top, left)
            return Pasted(
                source, cutout.class_id, number, top, left, height, width, scale, flip, 1.0
            )
    return None


def _draw_scale(
    cutout: Cutout, shape: tuple[int, ...], crowd: int, rng: np.random.Generator
) -> float:
    """Draw the scale: the longer side log-uniformly from `SIDES`, limited to fit the image."""
    low, high = np.log(SIDES)
    side = np.exp(rng.uniform(low, high)) / np.sqrt(crowd) * min(shape)
    fits = min((room - 1) / own for room, own in zip(shape, cutout.alpha.shape, strict=True))
    return float(min(side / max(cutout.alpha.shape), MOST_GROWTH, fits))
