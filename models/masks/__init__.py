"""Attention → label: pure, batched functions of tensors."""

from models.masks.colours import grow_by_colour, split_by_colour
from models.masks.contours import tidy
from models.masks.diffumask.affinity import (
    AffinityNet,
    affinity_loss,
    pair_affinity,
    pair_offsets,
    random_walk,
)
from models.masks.diffumask.crf import PUBLISHED, Kernel, binary_crf, two_label_certainty
from models.masks.diffumask.lattice import Lattice
from models.masks.diffumask.seeds import SeedRule, seed_labels, seed_thresholds
from models.masks.diffumask.threshold import GRID, adaptive_threshold
from models.masks.diffumask.walk import class_seeds, train_affinity, walk_attention, walk_labels
from models.masks.labels import IGNORE, Labels, label_maps, otsu
from models.masks.pamr import pamr
from models.masks.propagation import merge_resolutions, propagate
from models.masks.refinement import (
    Refined,
    attention_contrast,
    colour_scores,
    expected_iou,
    object_scores,
    refine_labels,
)

__all__ = [
    "GRID",
    "IGNORE",
    "PUBLISHED",
    "AffinityNet",
    "Kernel",
    "Labels",
    "Lattice",
    "Refined",
    "SeedRule",
    "adaptive_threshold",
    "affinity_loss",
    "attention_contrast",
    "binary_crf",
    "class_seeds",
    "colour_scores",
    "expected_iou",
    "grow_by_colour",
    "label_maps",
    "merge_resolutions",
    "object_scores",
    "otsu",
    "pair_affinity",
    "pair_offsets",
    "pamr",
    "propagate",
    "random_walk",
    "refine_labels",
    "seed_labels",
    "seed_thresholds",
    "split_by_colour",
    "tidy",
    "train_affinity",
    "two_label_certainty",
    "walk_attention",
    "walk_labels",
]
