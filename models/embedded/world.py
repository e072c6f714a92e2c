"""The drawn world: images of named objects on named backgrounds, with the exact label per pixel.

It is the training set of the embedded diffusion model, the "real" data of every evaluation that
ships with the project, and the reference for every claim about labels. An image depends on its seed
alone. Seeds below `HELD_OUT` are for training. Seeds from `HELD_OUT` on are for measuring and are
never trained on.

Confusions are built in: cars and buses share wheels, windows and colours, mushrooms and trees their
outline; a green ball may be on grass and a yellow bird on sand; objects hide one another.
"""

from __future__ import annotations

import numpy as np

from models.embedded.drawing import Drawing, draw_scene, object_coverage
from models.embedded.scene import SIZE, Placed, Scene, describe, sample_scene, vocabulary

__all__ = [
    "HELD_OUT",
    "SIZE",
    "Drawing",
    "Placed",
    "Scene",
    "describe",
    "draw",
    "draw_scene",
    "object_coverage",
    "sample_scene",
    "vocabulary",
]

HELD_OUT = 1 << 40  # first seed of the held-out range


def draw(seed: int) -> Drawing:
    """Return the drawing of that seed."""
    return draw_scene(sample_scene(np.random.default_rng(seed)))
