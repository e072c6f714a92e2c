"""Segmenters by name: SegFormer at two depths, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["PRESETS"]


def _segformer(
    width: int, heads: Sequence[int], layers: Sequence[int], channels: int
) -> dict[str, Any]:
    """Return the mmsegmentation config of a MiT backbone with the all-MLP head.

    Xie et al. 2021, "SegFormer", table 6. The channels per level are `width` times `heads`.
    """
    levels = len(layers)
    backbone = {
        "type": "MixVisionTransformer",
        "embed_dims": width,
        "num_heads": list(heads),
        "num_layers": list(layers),
        "num_stages": levels,
        "patch_sizes": [7, 3, 3, 3][:levels],
        "strides": [4, 2, 2, 2][:levels],
        "sr_ratios": [8, 4, 2, 1][:levels],
        "out_indices": list(range(levels)),
        "mlp_ratio": 4,
        "qkv_bias": True,
        "drop_path_rate": 0.0,
    }
    head = {
        "type": "FusedSegformerHead",
        "in_channels": [width * h for h in heads],
        "in_index": list(range(levels)),
        "channels": channels,
        "dropout_ratio": 0.0,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
        "num_classes": 2,
        "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True},
    }
    whole = {"train_cfg": {}, "test_cfg": {"mode": "whole"}}
    return {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, **whole}


PRESETS: dict[str, dict[str, Any]] = {
    "segformer": _segformer(32, (1, 2, 5, 8), (1, 1, 1, 1), 128),
    "segformer-b0": _segformer(32, (1, 2, 5, 8), (2, 2, 2, 2), 256),
}
