"""Outlines of the drawn world's objects: several looks per class, with random proportions.

A look is a function `(rng) -> list[Part]`. Points are in a box of about [-1, 1]², x to the right
and y down; `drawing.py` scales, turns and moves the box. Later parts are painted over earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOOKS", "Part"]

Points = NDArray[np.float64]
Look = Callable[[np.random.Generator], "list[Part]"]


class Part(NamedTuple):
    """A polygon (n, 2) and its paint: a tone of the object's own colour, or the name of a fixed
    colour.
    """

    points: Points
    paint: str


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def _ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0, n: int = 24
) -> Points:
    angle = np.radians(np.linspace(start, stop, n))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _poly(*xy: float) -> Points:
    return np.array(xy, float).reshape(-1, 2)


def _wheel(x: float, y: float, r: float) -> list[Part]:
    return [Part(_ellipse(x, y, r, r), "tyre"), Part(_ellipse(x, y, r * 0.45, r * 0.45), "metal")]


def _sedan(rng: np.random.Generator) -> list[Part]:
    front, back = rng.uniform(-0.55, -0.35), rng.uniform(0.35, 0.6)
    body = _poly(
        -1,
        0.0,
        front - 0.1,
        -0.08,
        front + 0.2,
        -0.5,
        back - 0.15,
        -0.5,
        back + 0.15,
        -0.06,
        1,
        0.05,
        1,
        0.4,
        -1,
        0.4,
    )
    pane = _poly(front + 0.06, -0.08, front + 0.26, -0.42, -0.02, -0.42, -0.02, -0.08)
    pane2 = _poly(0.06, -0.08, 0.06, -0.42, back - 0.2, -0.42, back + 0.02, -0.08)
    return [
        Part(body, "main"),
        Part(_box(-1, 0.22, 1, 0.4), "dark"),
        Part(pane, "glass"),
        Part(pane2, "glass"),
        Part(_box(-1, 0.05, -0.88, 0.17), "lamp"),
        *_wheel(-0.55, 0.42, 0.22),
        *_wheel(0.56, 0.42, 0.22),
    ]


def _pickup(rng: np.random.Generator) -> list[Part]:
    cab = rng.uniform(-0.05, 0.15)
    body = _poly(
        -1,
        0.0,
        -0.65,
        -0.05,
        -0.45,
        -0.55,
        cab,
        -0.55,
        cab + 0.05,
        -0.08,
        1,
        -0.08,
        1,
        0.4,
        -1,
        0.4,
    )
    pane = _poly(-0.52, -0.08, -0.37, -0.45, cab - 0.07, -0.45, cab - 0.04, -0.08)
    return [
        Part(body, "main"),
        Part(_box(cab + 0.08, -0.02, 0.96, 0.1), "dark"),
        Part(pane, "glass"),
        Part(_box(-1, 0.05, -0.88, 0.17), "lamp"),
        *_wheel(-0.58, 0.42, 0.24),
        *_wheel(0.56, 0.42, 0.24),
    ]


def _bus(rng: np.random.Generator) -> list[Part]:
    top, count = rng.uniform(-0.75, -0.6), int(rng.integers(4, 6))
    width = 1.7 / count
    panes = [
        Part(_box(-0.85 + i * width, top + 0.14, -0.85 + (i + 0.8) * width, -0.12), "glass")
        for i in range(count)
    ]
    return [
        Part(
            _poly(-1, top + 0.08, -0.94, top, 0.94, top, 1, top + 0.08, 1, 0.55, -1, 0.55), "main"
        ),
        *panes,
        Part(_box(-1, 0.05, 1, 0.18), "light"),
        *_wheel(-0.58, 0.56, 0.2),
        *_wheel(0.58, 0.56, 0.2),
    ]


def _double_decker(rng: np.random.Generator) -> list[Part]:
    count = int(rng.integers(3, 5))
    width = 1.4 / count
    panes = [
        Part(_box(-0.7 + i * width, y, -0.7 + (i + 0.8) * width, y + 0.36), "glass")
        for i in range(count)
        for y in (-0.8, -0.1)
    ]
    return [
        Part(_box(-0.82, -0.95, 0.82, 0.72), "main"),
        *panes,
        Part(_box(-0.82, -0.34, 0.82, -0.22), "light"),
        *_wheel(-0.48, 0.74, 0.2),
        *_wheel(0.48, 0.74, 0.2),
    ]


def _cottage(rng: np.random.Generator) -> list[Part]:
    eave, door = rng.uniform(-0.25, -0.1), rng.uniform(-0.5, 0.2)
    return [
        Part(_box(0.35, -0.9, 0.58, -0.3), "brick"),
        Part(_box(-0.8, eave, 0.8, 0.9), "main"),
        Part(_poly(-1, eave + 0.04, 0, -0.95, 1, eave + 0.04), "roof"),
        Part(_box(door, 0.3, door + 0.34, 0.9), "wood"),
        Part(
            _box(
                door + 0.45 if door < -0.1 else door - 0.5,
                0.2,
                door + 0.8 if door < -0.1 else door - 0.15,
                0.52,
            ),
            "glass",
        ),
    ]


def _tower_house(rng: np.random.Generator) -> list[Part]:
    half, eave = rng.uniform(0.42, 0.58), rng.uniform(-0.45, -0.3)
    panes = [
        Part(_box(x - 0.13, y, x + 0.13, y + 0.26), "glass")
        for x in (-half / 2, half / 2)
        for y in (-0.15, 0.25)
    ]
    return [
        Part(_box(-half, eave, half, 0.95), "main"),
        Part(_poly(-half - 0.15, eave, 0, -1, half + 0.15, eave), "roof"),
        *panes,
        Part(_box(-0.14, 0.6, 0.14, 0.95), "wood"),
    ]


def _round_tree(rng: np.random.Generator) -> list[Part]:
    crown = [
        Part(_ellipse(x, y, r, r * 0.95), tone)
        for x, y, r, tone in (
            (-0.3, -0.15, 0.42, "dark"),
            (0.32, -0.12, 0.42, "dark"),
            (0.0, -0.45, 0.5, "main"),
            (-0.1, -0.2, 0.4, "main"),
            (-0.15 + rng.uniform(-0.05, 0.05), -0.52, 0.22, "light"),
        )
    ]
    return [Part(_poly(-0.12, 0, 0.12, 0, 0.17, 0.97, -0.17, 0.97), "wood"), *crown]


def _fir(rng: np.random.Generator) -> list[Part]:
    half = rng.uniform(0.5, 0.65)
    tiers = [
        Part(_poly(-w * half, y1, 0, y0, w * half, y1), tone)
        for w, y0, y1, tone in (
            (1.0, -0.2, 0.68, "dark"),
            (0.82, -0.6, 0.3, "main"),
            (0.6, -1.0, -0.1, "main"),
        )
    ]
    return [Part(_box(-0.11, 0.55, 0.11, 0.98), "wood"), *tiers]


def _sailing_boat(rng: np.random.Generator) -> list[Part]:
    tip = rng.uniform(0.5, 0.75)
    return [
        Part(_box(-0.06, -0.95, 0.02, 0.4), "wood"),
        Part(_poly(0.06, -0.9, tip, 0.25, 0.06, 0.25), "sail"),
        Part(_poly(-0.12, -0.7, -0.12, 0.25, -0.6, 0.25), "sail"),
        Part(_poly(-0.95, 0.36, 0.95, 0.36, 0.62, 0.85, -0.62, 0.85), "main"),
        Part(_poly(-0.95, 0.36, 0.95, 0.36, 0.87, 0.47, -0.87, 0.47), "dark"),
    ]


def _steamer(rng: np.random.Generator) -> list[Part]:
    stack = rng.uniform(-0.15, 0.15)
    windows = [Part(_ellipse(x, 0.08, 0.07, 0.07, n=10), "glass") for x in (-0.3, 0.0, 0.3)]
    return [
        Part(_box(stack - 0.12, -0.75, stack + 0.12, -0.1), "roof"),
        Part(_box(-0.5, -0.12, 0.5, 0.25), "sail"),
        *windows,
        Part(_poly(-1, 0.12, -0.9, 0.22, 0.95, 0.22, 0.72, 0.72, -0.75, 0.72), "main"),
        Part(_poly(-0.9, 0.5, 0.82, 0.5, 0.72, 0.72, -0.75, 0.72), "dark"),
    ]


def _mug(rng: np.random.Generator) -> list[Part]:
    r, half = rng.uniform(0.34, 0.42), rng.uniform(0.5, 0.58)
    handle = np.concatenate(
        [
            _ellipse(half - 0.05, 0.05, r, r, -80, 80),
            _ellipse(half - 0.05, 0.05, r * 0.6, r * 0.6, 80, -80),
        ]
    )
    return [
        Part(handle, "dark"),
        Part(
            np.concatenate(
                [_box(-half, -0.65, half, 0.6)[:2], _ellipse(0, 0.62, half, 0.22, 0, 180)]
            ),
            "main",
        ),
        Part(_ellipse(0, -0.65, half, 0.2), "light"),
        Part(_ellipse(0, -0.63, half * 0.82, 0.14), "tea"),
    ]


def _tall_mug(rng: np.random.Generator) -> list[Part]:
    foot = rng.uniform(0.3, 0.38)
    handle = np.concatenate(
        [_ellipse(0.4, -0.1, 0.36, 0.42, -85, 85), _ellipse(0.4, -0.1, 0.2, 0.26, 85, -85)]
    )
    body = np.concatenate([_poly(-0.5, -0.8, 0.5, -0.8), _ellipse(0, 0.75, foot, 0.14, 0, 180)])
    return [
        Part(handle, "dark"),
        Part(body, "main"),
        Part(_poly(-0.46, -0.3, 0.46, -0.3, 0.43, 0.0, -0.43, 0.0), "light"),
        Part(_ellipse(0, -0.8, 0.5, 0.15), "light"),
        Part(_ellipse(0, -0.79, 0.41, 0.1), "tea"),
    ]


def _toadstool(rng: np.random.Generator) -> list[Part]:
    half = rng.uniform(0.8, 0.95)
    cap = np.concatenate(
        [_ellipse(0, 0.05, half, 0.85, 180, 360), _ellipse(0, 0.05, half, 0.14, 0, 180)]
    )
    dots = [
        Part(_ellipse(x * half, y, r, r * 0.85, n=12), "sail")
        for x, y, r in (
            (-0.5, -0.22, 0.12),
            (0.05, -0.5, 0.14),
            (0.52, -0.2, 0.12),
            (0.0, -0.1, 0.1),
        )
    ]
    stem = np.concatenate([_poly(-0.2, 0, 0.2, 0), _ellipse(0, 0.85, 0.28, 0.12, 0, 180)])
    return [Part(stem, "stem"), Part(cap, "main"), *dots]


def _bolete(rng: np.random.Generator) -> list[Part]:
    cap = np.concatenate(
        [
            _ellipse(0, -0.1, 0.8, rng.uniform(0.5, 0.65), 180, 360),
            _ellipse(0, -0.1, 0.8, 0.24, 0, 180),
        ]
    )
    stem = np.concatenate([_poly(-0.26, 0, 0.26, 0), _ellipse(0, 0.78, 0.42, 0.18, 0, 180)])
    return [Part(stem, "stem"), Part(cap, "main"), Part(_ellipse(0, 0.03, 0.62, 0.1), "dark")]


def _beach_ball(rng: np.random.Generator) -> list[Part]:
    a = rng.uniform(0, 120)
    wedges = [
        Part(
            np.concatenate([_poly(0, -0.1), _ellipse(0, 0, 0.9, 0.9, a + t, a + t + 55, 12)]),
            "sail",
        )
        for t in (0, 120, 240)
    ]
    return [
        Part(_ellipse(0, 0, 0.9, 0.9, n=36), "main"),
        *wedges,
        Part(_ellipse(0, -0.1, 0.14, 0.14, n=12), "light"),
    ]


def _plain_ball(rng: np.random.Generator) -> list[Part]:
    y = rng.uniform(-0.15, 0.15)
    band = np.concatenate(
        [_ellipse(0, y, 0.89, 0.3, 170, 10), _ellipse(0, y + 0.2, 0.87, 0.3, 10, 170)]
    )
    return [
        Part(_ellipse(0, 0, 0.9, 0.9, n=36), "main"),
        Part(band, "dark"),
        Part(_ellipse(-0.32, -0.4, 0.2, 0.16, n=14), "light"),
    ]


def _fish(rng: np.random.Generator) -> list[Part]:
    tall = rng.uniform(0.42, 0.52)
    stripes = [
        Part(
            _poly(
                x, -tall * 0.8, x + 0.12, -tall * 0.85, x + 0.08, tall * 0.85, x - 0.04, tall * 0.8
            ),
            "light",
        )
        for x in (-0.2, 0.12)
    ]
    return [
        Part(_poly(0.5, 0, 1.0, -0.45, 0.88, 0, 1.0, 0.45), "dark"),
        Part(_poly(-0.3, -tall * 0.8, 0.15, -tall - 0.3, 0.35, -tall * 0.6), "dark"),
        Part(_ellipse(-0.15, 0, 0.8, tall), "main"),
        *stripes,
        Part(_ellipse(-0.62, -0.1, 0.11, 0.11, n=12), "sail"),
        Part(_ellipse(-0.63, -0.1, 0.055, 0.055, n=10), "tyre"),
    ]


def _long_fish(rng: np.random.Generator) -> list[Part]:
    tail = rng.uniform(0.3, 0.42)
    return [
        Part(_poly(0.55, 0, 1.0, -tail, 0.92, 0, 1.0, tail), "dark"),
        Part(_poly(-0.1, 0.2, 0.25, 0.5, 0.3, 0.1), "dark"),
        Part(
            _poly(
                -1, 0.04, -0.7, -0.24, -0.1, -0.34, 0.65, -0.06, 0.65, 0.08, -0.1, 0.3, -0.7, 0.22
            ),
            "main",
        ),
        Part(_poly(-0.85, 0.1, -0.1, 0.16, 0.6, 0.05, -0.1, 0.28, -0.68, 0.21), "light"),
        Part(_ellipse(-0.7, -0.05, 0.075, 0.075, n=10), "sail"),
        Part(_ellipse(-0.71, -0.05, 0.04, 0.04, n=8), "tyre"),
    ]


def _songbird(rng: np.random.Generator) -> list[Part]:
    wing = rng.uniform(0.3, 0.4)
    return [
        Part(_box(-0.12, 0.5, -0.06, 0.95), "beak"),
        Part(_box(0.1, 0.5, 0.16, 0.95), "beak"),
        Part(_poly(0.4, 0.0, 1.0, -0.3, 0.95, 0.0, 0.5, 0.3), "dark"),
        Part(_ellipse(0, 0.15, 0.6, 0.45), "main"),
        Part(_ellipse(-0.5, -0.4, 0.32, 0.32, n=18), "main"),
        Part(_poly(-0.78, -0.48, -1.05, -0.34, -0.78, -0.28), "beak"),
        Part(_ellipse(0.12, 0.1, wing, 0.24), "dark"),
        Part(_ellipse(-0.58, -0.46, 0.07, 0.07, n=10), "tyre"),
    ]


def _flying_bird(rng: np.random.Generator) -> list[Part]:
    lift = rng.uniform(-0.95, -0.75)
    return [
        Part(_poly(-0.05, 0.15, 0.05, lift * 0.6, 0.65, lift - 0.05, 0.4, 0.12), "dark"),
        Part(_poly(0.45, 0.15, 1.0, 0.1, 0.95, 0.4, 0.45, 0.35), "dark"),
        Part(_ellipse(0.02, 0.25, 0.6, 0.26), "main"),
        Part(_ellipse(-0.58, 0.1, 0.24, 0.22, n=16), "main"),
        Part(_poly(-0.78, 0.04, -1.02, 0.14, -0.78, 0.2), "beak"),
        Part(_poly(-0.15, 0.22, -0.35, lift * 0.75, 0.18, lift, 0.28, 0.2), "light"),
        Part(_ellipse(-0.64, 0.06, 0.06, 0.06, n=10), "tyre"),
    ]


LOOKS: dict[str, tuple[Look, ...]] = {
    "car": (_sedan, _pickup),
    "bus": (_bus, _double_decker),
    "house": (_cottage, _tower_house),
    "tree": (_round_tree, _fir),
    "boat": (_sailing_boat, _steamer),
    "mug": (_mug, _tall_mug),
    "mushroom": (_toadstool, _bolete),
    "ball": (_beach_ball, _plain_ball),
    "fish": (_fish, _long_fish),
    "bird": (_songbird, _flying_bird),
}
