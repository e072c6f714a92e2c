"""Segmenters by name: SegFormer at two depths; small Mask2Former, EoMT, GSS and SemFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["PRESETS"]

_WHOLE: dict[str, Any] = {"train_cfg": {}, "test_cfg": {"mode": "whole"}}


def _segformer(
    width: int, heads: Sequence[int], layers: Sequence[int], channels: int
) -> dict[str, Any]:
    """Return the mmsegmentation config of a MiT backbone with the all-MLP head.

    Xie et al. 2021, "SegFormer", table 6. The channels per level are `width` times `heads`.
    """
    head = {
        "type": "FusedSegformerHead",
        "in_channels": [width * h for h in heads],
        "in_index": list(range(len(layers))),
        "channels": channels,
        "dropout_ratio": 0.0,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
        "num_classes": 2,
        "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True},
    }
    backbone = _mit(width, heads, layers)
    return {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, **_WHOLE}


def _mit(width: int, heads: Sequence[int], layers: Sequence[int]) -> dict[str, Any]:
    levels = len(layers)
    return {
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


def _mask2former(
    backbone: dict[str, Any], channels: Sequence[int], **sizes: int | None
) -> dict[str, Any]:
    """Return the config of Mask2Former around a backbone with these channels per level."""
    network = {"backbone": backbone, "channels": list(channels), "num_classes": 2}
    return {"type": "Mask2Former", **network, **sizes, **_WHOLE}


def _gss(variant: str) -> dict[str, Any]:
    """Return the config of a small GSS around the backbone of "segformer"."""
    head = {
        "in_channels": [32 * heads for heads in _HEADS],
        "channels": 64,
        "width": 96,
        "depth": 2,
        "heads": 4,
        "num_classes": 2,
    }
    backbone = _mit(32, _HEADS, (1, 1, 1, 1))
    return {"type": "GSS", "variant": variant, "backbone": backbone, "decode_head": head, **_WHOLE}


def _semflow(codes: str, **options: Any) -> dict[str, Any]:
    """Return the config of SemFlow, from the weights of the embedded generator."""
    to_unit = {"mean": [127.5] * 3, "std": [127.5] * 3}
    given = {"pipeline": "embedded", "num_classes": 2, "codes": codes, **options}
    return {"type": "SemFlow", **given, "data_preprocessor": to_unit, **_WHOLE}


_HEADS = (1, 2, 5, 8)
PRESETS: dict[str, dict[str, Any]] = {
    "eomt": {
        "type": "Eomt",
        "num_classes": 2,
        "width": 128,
        "layers": 6,
        "heads": 4,
        "blocks": 3,
        "queries": None,
        "patch": 8,
        "side": 128,
        "registers": 0,
        "upscales": 1,
        "points": 1024,
        **_WHOLE,
    },
    "gss": _gss("codes"),
    **{f"gss-{name}": _gss(name) for name in ("ff", "ff-r", "ft", "ft-w", "tf", "tt", "codes")},
    "mask2former": _mask2former(
        _mit(32, _HEADS, (1, 1, 1, 1)),
        [32 * heads for heads in _HEADS],
        width=64,
        heads=4,
        queries=None,
        encoder_layers=1,
        decoder_layers=3,
        points=1024,
    ),
    "segformer": _segformer(32, _HEADS, (1, 1, 1, 1), 128),
    "segformer-b0": _segformer(32, _HEADS, (2, 2, 2, 2), 256),
    "semflow": _semflow("learned", noise=0.4, steps=1),
    "semflow-anchors": _semflow("anchors", palette="reproduced", noise=0.05, steps=25),
}
