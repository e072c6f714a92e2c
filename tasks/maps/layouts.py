"""Layouts: which label maps each row draws, of one size, with the ids that the flow was trained on.

| generator.layouts | a row's label map |
|---|---|
| given | a map of the source; all maps in a seeded order, as often as needed |
| composed | the same, with one or two objects of other maps at new places and sizes, or mirrored |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from infra.settings import Settings, SettingsError
from infra.store import Store
from models.scenes import IGNORE, compose_scene, cut_shapes, instance_map
from tasks.maps.sources import LabelMap, MapSource, open_source
from tasks.train.train import class_names

__all__ = ["Layouts", "open_layouts"]

MOST_OBJECTS = 2  # that a composed layout adds; a given map has objects of its own
TRIES = 8  # maps looked at for these objects; many hold none that can be cut out

Size = tuple[int, int]  # height, width


class Layouts:
    """The label maps of a run by their numbers in `source`.

    `ids` gives the label id of each class, `size` (H, W) resizes all maps to the nearest pixel.
    """

    def __init__(
        self,
        source: MapSource,
        ids: Mapping[str, int],
        seed: int,
        *,
        size: Size | None = None,
        composed: bool = False,
    ) -> None:
        self.source = source
        self.composed = composed
        self._names = {number: name for name, number in ids.items()}
        self._known = np.isin(np.arange(IGNORE + 1), [0, IGNORE, *ids.values()])
        self._resized = size
        # a generator of its own, as for captions
        self._order = np.random.default_rng([seed, 2]).permutation(len(source))

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def size(self) -> Size:
        """Height and width of every label map, in pixels."""
        height, width = self._resized or self.source.read(0).label.shape
        return int(height), int(width)

    @property
    def has_instances(self) -> bool:
        """Whether `make` returns instance ids."""
        return self.composed or self.source.has_instances

    def numbers(self, row: int, seed: int) -> list[int]:
        """Return the maps of a row: the map itself, and those it gets an object from."""
        chosen = [int(self._order[row % len(self._order)])]
        if self.composed:
            rng = np.random.default_rng(seed)
            wanted = 1 + int(rng.integers(1, MOST_OBJECTS + 1))
            for other in rng.integers(len(self), size=TRIES).tolist():
                if len(chosen) < wanted and cut_shapes(self._read(other).label):
                    chosen.append(other)
        return chosen

    def make(self, numbers: Sequence[int], seed: int) -> LabelMap:
        """Return the label map of a row, which depends on these maps and the row's seed alone.

        Raises `SettingsError` for an id that no class has and for maps of different sizes.
        """
        first, *others = map(self._read, numbers)
        if not self.composed:
            instance = first.instance
            if instance is None and self.has_instances:
                instance = instance_map(first.label)
            return LabelMap(first.label, instance)
        rng = np.random.default_rng([seed, 1])
        found = [cut_shapes(other.label) for other in others]
        objects = [shapes[rng.integers(len(shapes))] for shapes in found]
        blank = np.zeros((*first.label.shape, 3), np.uint8)
        scene = compose_scene(blank, first.label, objects, rng)
        return LabelMap(scene.label, scene.instance)

    def classes(self, label: NDArray[np.uint8]) -> list[str]:
        """Return the names of the classes that a label map shows, in the order of their ids."""
        return [self._names[int(number)] for number in np.unique(label) if 0 < number < IGNORE]

    def _read(self, number: int) -> LabelMap:
        if not 0 <= number < len(self):
            raise SettingsError(
                f"the plan names label map {number}, and there are {len(self)}; delete the run's "
                "plan.parquet and run again"
            )
        found = self.source.read(number)
        known = self._known[found.label]
        if not known.all():
            raise SettingsError(
                f"generator.labels: {self.source.name(number)} holds id {found.label[~known][0]}, "
                f"which no class of the SemFlow has ({_listed(self._names)}; 0 is background, "
                f"{IGNORE} ignored); correct the map"
            )
        if self._resized:
            instance = found.instance
            return LabelMap(
                _resize(found.label, self.size),
                None if instance is None else _resize(instance, self.size),
            )
        if found.label.shape != self.size:
            raise SettingsError(
                f"generator.labels: {self.source.name(number)} has {_shown(found.label.shape)} "
                f"pixels, and {self.source.name(0)} has {_shown(self.size)}; set generator.height "
                "and generator.width, to which all are then resized"
            )
        return found


def _resize(values: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return the ids at another size, each pixel's that of the nearest one."""
    resized = cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def _listed(names: Mapping[int, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in names.items())


def _shown(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"


def open_layouts(store: Store, settings: Settings) -> Layouts:
    """Return the label maps of a run; a process opens those of a started run once.

    Raises what `open_source` raises, and `SettingsError` for other maps than
    `generator.labels_digest` says.
    """
    generator = settings.generator
    ids = settings.load_vocabulary().ids
    what = (str(generator.labels), class_names(ids))
    digest = generator.labels_digest  # without one, the maps may change while they are kept open
    source = _kept_open(store, *what, digest) if digest else open_source(store, *what)
    if digest not in (None, source.digest):
        raise SettingsError(
            f"generator.labels_digest is {digest}, but the digest of "
            f"{generator.labels!r} is {source.digest}; remove generator.labels_digest, or give "
            "the label maps with that digest"
        )
    height, width = generator.height, generator.width
    return Layouts(
        source,
        ids,
        settings.seed,
        size=(height, width) if height and width else None,
        composed=generator.layouts == "composed",
    )


@lru_cache(maxsize=1)
def _kept_open(store: Store, given: str, classes: tuple[str, ...], digest: str) -> MapSource:
    return open_source(store, given, classes)
