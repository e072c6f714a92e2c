"""Objects → scenes: cut objects out of labelled images, put several into one picture, tile pictures
into mosaics.

Free-Mask's composition (arXiv 2411.01819) with colour statistics in place of its networks, and
DiffuMask's splicing. Pure functions of arrays; whatever is random takes a `numpy.random.Generator`.
"""

from models.scenes.blending import harmonise, paste
from models.scenes.components import IGNORE, Component, components, instance_map
from models.scenes.cutout import Cutout, cut_objects, transform
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
    "harmonise",
    "instance_map",
    "paste",
    "splice",
    "transform",
]
