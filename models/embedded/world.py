"""The drawn world: photographs-in-small of named objects on named grounds, with the exact label of
every pixel.

It is the training set of the embedded diffusion model, the "real" data of every evaluation that
ships with the project, and the yardstick of every claim about labels. A picture depends on its seed
alone. Seeds below `HELD_OUT` are for training; those from `HELD_OUT` on are for measuring and are
never trained on.

Ways to be wrong are built in: cars and buses share wheels, windows and colours, mushrooms and trees
their outline, a green ball may lie on grass and a yellow bird stand on sand; objects hide one
another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.embedded.shapes import LOOKS, Part
from models.embedded.textures import GROUNDS, smooth_noise

__all__ = [
    "HELD_OUT",
    "SIZE",
    "Drawing",
    "Placed",
    "Scene",
    "describe",
    "draw",
    "draw_scene",
    "sample_scene",
    "vocabulary",
]

SIZE = 128
HELD_OUT = 1 << 40  # first seed of the held-out range

# RGB of the adjectives that a prompt may use.
COLOURS = {
    "red": (200, 40, 38),
    "orange": (232, 128, 30),
    "yellow": (236, 206, 50),
    "green": (60, 140, 62),
    "blue": (44, 84, 188),
    "purple": (128, 60, 160),
    "white": (232, 232, 230),
    "black": (46, 46, 52),
}
# Paints that do not follow the object's colour.
FIXED = {
    "glass": (168, 206, 226),
    "tyre": (34, 34, 38),
    "metal": (176, 180, 186),
    "lamp": (250, 234, 150),
    "roof": (112, 58, 46),
    "wood": (104, 72, 46),
    "brick": (146, 78, 62),
    "sail": (238, 236, 226),
    "tea": (86, 50, 30),
    "stem": (226, 212, 184),
    "beak": (226, 156, 46),
}
_SUBPIXEL = 4  # fractional bits of the polygon filler
# Side of an object as a share of the picture, by number of objects in the scene; and the same for
# named sizes.
_SCALES = {1: (0.42, 0.80), 2: (0.34, 0.52), 3: (0.30, 0.44), 4: (0.27, 0.38), 5: (0.25, 0.35)}
_SMALL, _LARGE = (
    0.25,
    0.75,
)  # quantiles of that range below and above which "small" and "large" may be said
_SAID = (
    0.5,
    0.6,
    0.8,
    0.8,
)  # chance that a prompt names the size, colour, direction and look that its objects share
_VISIBLE = 0.55  # share of every object that others leave uncovered


@dataclass(frozen=True)
class Placed:
    """One object of a scene: centre, half side in pixels, stretch of the width, turn in radians,
    and its seed.
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
    """What is drawn: the ground, the light and the objects, the nearest last."""

    ground: str
    objects: tuple[Placed, ...]
    light: float  # direction the light comes from, radians
    brightness: float
    seed: int


@dataclass(frozen=True)
class Drawing:
    """A picture (H, W, 3) uint8 RGB, its class ids and its instance ids, both (H, W) uint8 with 0 =
    ground.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    instance: NDArray[np.uint8]
    scene: Scene


@cache
def vocabulary() -> dict[str, Any]:
    """The world's classes, grounds, words and palette, as `data/world.json` holds them."""
    loaded: dict[str, Any] = json.loads(
        (Path(__file__).parent / "data" / "world.json").read_text("utf-8")
    )
    return loaded


@cache
def _class(name: str) -> dict[str, Any]:
    return next(c for c in vocabulary()["classes"] if c["name"] == name)


def sample_scene(
    rng: np.random.Generator,
    classes: Sequence[str] | None = None,
    ground: str | None = None,
    *,
    max_objects: int = 5,
) -> Scene:
    """A random scene;

    `classes` fixes the objects (one entry each, may be empty), `ground` the background.
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
    """Put the objects so that each keeps most of its box uncovered; the last of many tries stands."""
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
    colour = str(rng.choice(_class(name)["colours"]))
    look, stretch, turn = (
        int(rng.integers(len(LOOKS[name]))),
        float(rng.uniform(0.9, 1.1)),
        float(rng.uniform(-0.2, 0.2)),
    )
    flip, seed = bool(rng.random() < 0.5), int(rng.integers(1 << 62))
    return Placed(
        name, colour, size, look, float(x), float(y), float(half), stretch, turn, flip, seed
    )


def _uncovered(a: Placed, b: Placed) -> float:
    """Share of the smaller one's box that the two do not have in common."""
    overlap = [max(0.0, a.half + b.half - abs(p - q)) for p, q in ((a.x, b.x), (a.y, b.y))]
    return 1 - overlap[0] * overlap[1] / (2 * min(a.half, b.half)) ** 2


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt for the scene: counts, sizes, colours, directions and looks said or left out,
    synonyms at random.
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
    text = str(rng.choice(vocabulary()["templates"])).format(
        objects=", ".join(phrases[:-1]) + " and " + phrases[-1]
        if len(phrases) > 1
        else "".join(phrases),
        background=rng.choice(ground["synonyms"]),
    )
    return text if phrases else text.split(" on ", 1)[1]


def _phrase(objects: list[Placed], rng: np.random.Generator) -> str:
    entry = _class(objects[0].name)
    said = [(o.size, o.colour, *_manner(o)) for o in objects]
    words = [
        values[0]
        for values, chance in zip(zip(*said, strict=True), _SAID, strict=True)
        if len(set(values)) == 1 and rng.random() < chance
    ]
    which = int(rng.integers(len(entry["synonyms"])))
    words = [w for w in words if w] + [entry["synonyms" if len(objects) == 1 else "plurals"][which]]
    numbers = {2: "two", 3: "three", 4: "four", 5: "five"}
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([numbers.get(len(objects), article), *words])


def _manner(thing: Placed) -> tuple[str, str]:
    """Which way it faces, "" for what has no front, and its look, in the words of the vocabulary's
    sub-classes.
    """
    names = list(_class(thing.name)["subclasses"])
    directions = len(names) // len(LOOKS[thing.name])
    *direction, look = names[thing.look * directions + thing.flip % directions].split()
    return "".join(direction), look


def draw(seed: int) -> Drawing:
    """The picture of that seed."""
    return draw_scene(sample_scene(np.random.default_rng(seed)))


def draw_scene(scene: Scene) -> Drawing:
    """Paint a scene, ground first; the same scene always gives the same bytes."""
    rng = np.random.default_rng(scene.seed)
    image = GROUNDS[scene.ground](rng, SIZE) * np.float32(scene.brightness) + rng.normal(
        0, 5, 3
    ).astype(np.float32)
    label, instance = np.zeros((SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    for number, thing in enumerate(scene.objects, 1):
        _shadow(image, thing, scene)
        paint, alpha, (top, left) = _render(thing, scene)
        window = np.s_[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        weight = alpha[..., None].astype(np.float32) / 255
        image[window] += (paint - image[window]) * weight
        inside = alpha > 127
        label[window][inside] = _class(thing.name)["id"]
        instance[window][inside] = number
    image += smooth_noise(rng, SIZE, SIZE, 1, 1)[..., None] * np.float32(
        rng.uniform(1, 4)
    )  # camera noise
    return Drawing(np.clip(image, 0, 255).astype(np.uint8), label, instance, scene)


def _shadow(image: NDArray[np.float32], thing: Placed, scene: Scene) -> None:
    """Darken an ellipse beside the object's foot, away from the light; nested for a soft edge."""
    dark = np.zeros((SIZE, SIZE), np.uint8)
    x = thing.x - np.cos(scene.light) * thing.half * 0.25
    y = thing.y + thing.half * 0.86
    for grow, value in ((1.0, 22), (0.85, 46), (0.7, 72)):
        axes = (thing.half * thing.stretch * 0.95 * grow, thing.half * 0.22 * grow)
        angle = np.linspace(0, 2 * np.pi, 24)
        _fill(dark, np.stack([x + axes[0] * np.cos(angle), y + axes[1] * np.sin(angle)], 1), value)
    image *= 1 - dark[..., None].astype(np.float32) / 255


def _render(
    thing: Placed, scene: Scene
) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[int, int]]:
    """The object's shaded paint (h, w, 3), its coverage (h, w) in 0..255, and its place (top, left)
    in the picture.
    """
    rng = np.random.default_rng(thing.seed)
    parts = LOOKS[thing.name][thing.look](rng)
    points = [_transform(p.points, thing) for p in parts]
    every = np.concatenate(points)
    low = np.clip(np.floor(every.min(0)).astype(int) - 1, 0, SIZE - 1)
    high = np.clip(np.ceil(every.max(0)).astype(int) + 2, low + 1, SIZE)
    tones = _tones(thing.colour, rng)
    shape = (int(high[1] - low[1]), int(high[0] - low[0]))
    canvas = np.full((*shape, 3), tones["main"], np.uint8)
    alpha = np.zeros(shape, np.uint8)
    for part, polygon in zip(parts, points, strict=True):
        _fill(canvas, polygon - low, _paint_of(part, tones))
        _fill(alpha, polygon - low, 255)
    return canvas * _shading(rng, shape, scene)[..., None], alpha, (int(low[1]), int(low[0]))


def _transform(points: NDArray[np.float64], thing: Placed) -> NDArray[np.float64]:
    scale = np.array([thing.half * thing.stretch * (-1 if thing.flip else 1), thing.half]) * 0.93
    sin, cos = np.sin(thing.turn), np.cos(thing.turn)
    return np.asarray((points * scale) @ np.array([[cos, sin], [-sin, cos]]) + (thing.x, thing.y))


def _fill(canvas: NDArray[np.uint8], points: NDArray[np.float64], paint: Any) -> None:
    cv2.fillPoly(
        canvas,
        [np.round(points * (1 << _SUBPIXEL)).astype(np.int32)],
        paint,
        cv2.LINE_AA,
        _SUBPIXEL,
    )


def _tones(colour: str, rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    main = np.clip(
        np.array(COLOURS[colour]) * rng.uniform(0.88, 1.08) + rng.normal(0, 7, 3), 12, 245
    )
    shades = {"main": main, "dark": main * 0.68, "light": main + (255 - main) * 0.45}
    return {name: tuple(int(v) for v in value) for name, value in shades.items()}


def _paint_of(part: Part, tones: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    return tones[part.paint] if part.paint in tones else FIXED[part.paint]


def _shading(rng: np.random.Generator, shape: tuple[int, int], scene: Scene) -> NDArray[np.float32]:
    """Light falling off across the object, and a grain of its surface."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    slope = (
        np.float32(np.cos(scene.light)) * x[None, :] + np.float32(np.sin(scene.light)) * y[:, None]
    )
    grain = smooth_noise(rng, *shape, 4, 4) * np.float32(0.025)
    return np.asarray(
        (1 + 0.16 * slope + grain) * np.float32(0.45 + 0.55 * scene.brightness), np.float32
    )
