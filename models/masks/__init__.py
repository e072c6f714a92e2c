"""Attention → label, as pure batched functions of tensors."""

from models.masks.colours import split_by_colour
from models.masks.crf import PUBLISHED, Kernel, binary_crf, dense_crf, two_label_certainty
from models.masks.labels import IGNORE, Labels, label_maps, otsu
from models.masks.lattice import Lattice
from models.masks.pamr import pamr
from models.masks.propagation import merge_resolutions, propagate
from models.masks.refinement import Refined, object_scores, refine_labels

__all__ = [
    "IGNORE",
    "PUBLISHED",
    "Kernel",
    "Labels",
    "Lattice",
    "Refined",
    "binary_crf",
    "dense_crf",
    "label_maps",
    "merge_resolutions",
    "object_scores",
    "otsu",
    "pamr",
    "propagate",
    "refine_labels",
    "split_by_colour",
    "two_label_certainty",
]
