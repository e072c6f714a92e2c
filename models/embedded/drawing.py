"""Rendering of the drawn world: a scene → its image, label and instance map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.embedded.scene import SIZE, Placed, Scene, class_entry
from models.embedded.shapes import LOOKS, Part
from models.embedded.textures import GROUNDS, smooth_noise

__all__ = ["Drawing", "draw_scene", "object_coverage"]

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
# Paints of parts that do not follow the object's colour.
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


@dataclass(frozen=True)
class Drawing:
    """An image (H, W, 3) uint8 RGB, its class ids and instance ids (H, W) uint8; 0 = background."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    instance: NDArray[np.uint8]
    scene: Scene


def draw_scene(scene: Scene) -> Drawing:
    """Paint a scene, background first; the same scene always gives the same bytes."""
    rng = np.random.default_rng(scene.seed)
    image = GROUNDS[scene.ground](rng, SIZE) * np.float32(scene.brightness)
    image = image + rng.normal(0, 5, 3).astype(np.float32)
    label = np.zeros((SIZE, SIZE), np.uint8)
    instance = np.zeros((SIZE, SIZE), np.uint8)
    for number, thing in enumerate(scene.objects, 1):
        _shadow(image, thing, scene)
        paint, alpha, (top, left) = _render(thing, scene)
        window = np.s_[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        weight = alpha[..., None].astype(np.float32) / 255
        image[window] += (paint - image[window]) * weight
        inside = alpha > 127
        label[window][inside] = class_entry(thing.name)["id"]
        instance[window][inside] = number
    camera_noise = smooth_noise(rng, SIZE, SIZE, 1, 1)[..., None]
    image += camera_noise * np.float32(rng.uniform(1, 4))
    return Drawing(np.clip(image, 0, 255).astype(np.uint8), label, instance, scene)


def object_coverage(thing: Placed, scene: Scene) -> NDArray[np.float64]:
    """Return the share of each pixel (H, W), in [0, 1], that an object covers by itself."""
    _, alpha, (top, left) = _render(thing, scene)
    found = np.zeros((SIZE, SIZE))
    found[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha / 255
    return found


def _shadow(image: NDArray[np.float32], thing: Placed, scene: Scene) -> None:
    """Darken three nested ellipses at the object's foot, on the side away from the light."""
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
    """Return the shaded paint (h, w, 3), coverage (h, w) in 0..255, and (top, left) in pixels."""
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
    """Return factors (h, w) of the object's paint: a gradient by the light, and a grain."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    slope = (
        np.float32(np.cos(scene.light)) * x[None, :] + np.float32(np.sin(scene.light)) * y[:, None]
    )
    grain = smooth_noise(rng, *shape, 4, 4) * np.float32(0.025)
    return np.asarray(
        (1 + 0.16 * slope + grain) * np.float32(0.45 + 0.55 * scene.brightness), np.float32
    )
