"""Objects → scenes: cut objects out, paste several into one image, tile images as mosaics.

Free-Mask's composition (arXiv 2411.01819) with colour statistics instead of its networks, and
DiffuMask's splicing. Pure functions of arrays; random choices take a `numpy.random.Generator`.
"""

from models.scenes.blending import harmonise, paste
from models.scenes.components import IGNORE, Component, components, instance_map
from models.scenes.cutout import Cutout, cut_objects, cut_shapes, transform
from models.scenes.mosaic import choose_grid, splice
from models.scenes.scene import Pasted, Scene, compose_scene

__all__ = [
    "IGNORE",
    "Component",
    "Cutout",
    "Pasted",
    "Scene",
    "choose_grid",
    "components",
    "compose_scene",
    "cut_objects",
    "cut_shapes",
    "harmonise",
    "instance_map",
    "paste",
    "splice",
    "transform",
]
