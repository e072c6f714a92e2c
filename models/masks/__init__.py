"""Attention → label, as pure batched functions of tensors."""

from models.masks.labels import Labels, label_maps
from models.masks.pamr import pamr
from models.masks.propagation import merge_resolutions, propagate

__all__ = ["Labels", "label_maps", "merge_resolutions", "pamr", "propagate"]
