"""Scenes of the drawn world: which objects are placed where, and the prompts that describe them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.embedded.shapes import LOOKS
from models.embedded.textures import GROUNDS

__all__ = ["SIZE", "Placed", "Scene", "class_entry", "describe", "sample_scene", "vocabulary"]

SIZE = 128
# Side of an object as a share of the image's side, by number of objects in the scene.
_SCALES = {1: (0.42, 0.80), 2: (0.34, 0.52), 3: (0.30, 0.44), 4: (0.27, 0.38), 5: (0.25, 0.35)}
# quantiles of that range below and above which a prompt may say "small" and "large"
_SMALL = 0.25
_LARGE = 0.75
# chance that a prompt names the size, colour, direction and look that its objects share
_NAMED = (0.5, 0.6, 0.8, 0.8)
_VISIBLE = 0.55  # share of every object's box that others leave uncovered


@dataclass(frozen=True)
class Placed:
    """One object of a scene.

    `x`, `y` are its centre and `half` half its side, in pixels; `stretch` is a factor of its width,
    `turn` an angle in radians; `look` numbers its outline; `seed` decides proportions and shade.
    """

    name: str
    colour: str
    size: str
    look: int
    x: float
    y: float
    half: float
    stretch: float
    turn: float
    flip: bool
    seed: int


@dataclass(frozen=True)
class Scene:
    """What is drawn: the background (`ground`), the light and the objects, the nearest last."""

    ground: str
    objects: tuple[Placed, ...]
    light: float  # direction the light comes from, radians
    brightness: float
    seed: int


@cache
def vocabulary() -> dict[str, Any]:
    """Return the world's classes, backgrounds, words and palette, from `data/world.json`."""
    loaded: dict[str, Any] = json.loads(
        (Path(__file__).parent / "data" / "world.json").read_text("utf-8")
    )
    return loaded


@cache
def class_entry(name: str) -> dict[str, Any]:
    """Return the vocabulary's entry of a class."""
    return next(c for c in vocabulary()["classes"] if c["name"] == name)


def sample_scene(
    rng: np.random.Generator,
    classes: Sequence[str] | None = None,
    ground: str | None = None,
    *,
    max_objects: int = 5,
) -> Scene:
    """Return a random scene.

    `classes` fixes the objects (one entry each, may be empty), `ground` the background. Without
    `classes` there are none to five objects, `max_objects` at most.
    """
    names = [c["name"] for c in vocabulary()["classes"]]
    if classes is None:
        count = int(rng.choice(6, p=[0.03, 0.47, 0.28, 0.12, 0.06, 0.04]))
        classes = [names[i] for i in rng.integers(0, len(names), min(count, max_objects))]
    ground = ground or str(rng.choice(list(GROUNDS)))
    light = float(rng.uniform(-np.pi * 0.85, -np.pi * 0.15))
    objects = _place(rng, list(classes))
    return Scene(ground, objects, light, float(rng.uniform(0.82, 1.12)), int(rng.integers(1 << 62)))


def _place(rng: np.random.Generator, names: list[str]) -> tuple[Placed, ...]:
    """Place the objects so that each keeps most of its box uncovered, at random after 20 tries."""
    placed: list[Placed] = []
    for name in names:
        candidates = (_random_object(rng, name, len(names)) for _ in range(20))
        fits = (c for c in candidates if all(_uncovered(c, o) >= _VISIBLE for o in placed))
        placed.append(next(fits, None) or _random_object(rng, name, len(names)))
    return tuple(placed)


def _random_object(rng: np.random.Generator, name: str, count: int) -> Placed:
    low, high = _SCALES[count]
    quantile = rng.random()
    half = SIZE / 2 * (low + (high - low) * quantile)
    size = "small" if quantile < _SMALL else "large" if quantile > _LARGE else ""
    x, y = rng.uniform(half, SIZE - half, 2)
    colour = str(rng.choice(class_entry(name)["colours"]))
    return Placed(  # the order of these draws is part of what a seed stands for
        name=name,
        colour=colour,
        size=size,
        look=int(rng.integers(len(LOOKS[name]))),
        x=float(x),
        y=float(y),
        half=float(half),
        stretch=float(rng.uniform(0.9, 1.1)),
        turn=float(rng.uniform(-0.2, 0.2)),
        flip=bool(rng.random() < 0.5),
        seed=int(rng.integers(1 << 62)),
    )


def _uncovered(a: Placed, b: Placed) -> float:
    """Return the share of the smaller object's box that the two boxes do not have in common."""
    overlap = [max(0.0, a.half + b.half - abs(p - q)) for p, q in ((a.x, b.x), (a.y, b.y))]
    return 1 - overlap[0] * overlap[1] / (2 * min(a.half, b.half)) ** 2


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """Return a prompt for the scene.

    It names the counts; sizes, colours, directions, looks and synonyms are chosen at random.
    """
    names: list[str] = []
    for thing in scene.objects:
        if thing.name not in names:
            names.append(thing.name)
    phrases = [
        _phrase([o for o in scene.objects if o.name == name], rng)
        for name in rng.permutation(names)
    ]
    ground = next(b for b in vocabulary()["backgrounds"] if b["name"] == scene.ground)
    template = str(rng.choice(vocabulary()["templates"]))
    objects = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
    text = template.format(objects=objects, background=rng.choice(ground["synonyms"]))
    return text if phrases else text.split(" on ", 1)[1]


def _phrase(objects: list[Placed], rng: np.random.Generator) -> str:
    entry = class_entry(objects[0].name)
    known = [(o.size, o.colour, *_manner(o)) for o in objects]
    words = [
        values[0]
        for values, chance in zip(zip(*known, strict=True), _NAMED, strict=True)
        if len(set(values)) == 1 and rng.random() < chance
    ]
    which = int(rng.integers(len(entry["synonyms"])))
    words = [w for w in words if w] + [entry["synonyms" if len(objects) == 1 else "plurals"][which]]
    numbers = {2: "two", 3: "three", 4: "four", 5: "five"}
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([numbers.get(len(objects), article), *words])


def _manner(thing: Placed) -> tuple[str, str]:
    """Return direction ("" for objects without a front) and look, in the sub-classes' words."""
    names = list(class_entry(thing.name)["subclasses"])
    directions = len(names) // len(LOOKS[thing.name])
    *direction, look = names[thing.look * directions + thing.flip % directions].split()
    return "".join(direction), look
