"""Directories of Hugging Face as models: config.json of EoMT or Mask2Former, read as data.

Only numbers that describe the network are read. transformers loads nothing from the directory, so
no code, address or pickle in it has an effect. Its preprocessor_config.json gives the normalisation
of images; they keep their size, whatever it says of that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["is_directory", "read_directory", "weights_in"]

_LONGEST = 1 << 20  # bytes of a config.json; the largest have a few thousand lines of class names
_LARGEST = 1 << 16  # of a number in it
_SMALLEST = 1e-6  # of what images are divided by
_STAGES = ["stage1", "stage2", "stage3", "stage4"]

# Of each kind of model or backbone: transformers' fields and their defaults (`EomtConfig`, …), by
# the arguments that they are for us.
_FIELDS: dict[str, dict[str, tuple[str, Any]]] = {
    "eomt": {
        "width": ("hidden_size", 1024),
        "layers": ("num_hidden_layers", 24),
        "heads": ("num_attention_heads", 16),
        "blocks": ("num_blocks", 4),
        "queries": ("num_queries", 200),
        "patch": ("patch_size", 16),
        "side": ("image_size", 640),
        "registers": ("num_register_tokens", 4),
        "upscales": ("num_upscale_blocks", 2),
        "gated": ("use_swiglu_ffn", False),
        "scale": ("layerscale_value", 1.0),
        "points": ("train_num_points", 12544),
    },
    "mask2former": {
        "width": ("hidden_dim", 256),
        "features": ("feature_size", 256),
        "mask_features": ("mask_feature_size", 256),
        "heads": ("num_attention_heads", 8),
        "queries": ("num_queries", 100),
        "encoder_layers": ("encoder_layers", 6),
        "encoder_feedforward": ("encoder_feedforward_dim", 1024),
        "decoder_layers": ("decoder_layers", 10),
        "decoder_feedforward": ("dim_feedforward", 2048),
        "points": ("train_num_points", 12544),
    },
    "swin": {
        "width": ("embed_dim", 96),
        "depths": ("depths", [2, 2, 6, 2]),
        "heads": ("num_heads", [3, 6, 12, 24]),
        "window": ("window_size", 7),
        "ratio": ("mlp_ratio", 4.0),
        "qkv_bias": ("qkv_bias", True),
        "drop_path": ("drop_path_rate", 0.1),
    },
    "resnet": {
        "stem": ("embedding_size", 64),
        "channels": ("hidden_sizes", [256, 512, 1024, 2048]),
        "depths": ("depths", [3, 4, 6, 3]),
    },
}
# fields that we have no argument for, with the only value that is computed
_FIXED: dict[str, dict[str, Any]] = {
    "eomt": {"hidden_act": "gelu", "mlp_ratio": 4, "num_channels": 3, "layer_norm_eps": 1e-6},
    "mask2former": {
        "activation_function": "relu",
        "backbone": None,  # the name of one to fetch
        "common_stride": 4,
        "dropout": 0,
        "enforce_input_projection": False,
        "feature_strides": [4, 8, 16, 32],
        "pre_norm": False,
    },
    "swin": {
        "attention_probs_dropout_prob": 0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0,
        "layer_norm_eps": 1e-5,
        "num_channels": 3,
        "out_features": _STAGES,
        "patch_size": 4,
        "use_absolute_embeddings": False,
    },
    "resnet": {
        "downsample_in_bottleneck": False,
        "downsample_in_first_stage": False,
        "hidden_act": "relu",
        "layer_type": "bottleneck",
        "num_channels": 3,
        "out_features": _STAGES,
    },
}
_MAY_BE_ZERO = {"num_register_tokens"}


def is_directory(name: str) -> bool:
    """Return whether `name` is a folder with a config.json."""
    return (Path(name) / "config.json").is_file()


def weights_in(folder: str) -> Path:
    """Return the file of weights of a directory."""
    return Path(folder) / "model.safetensors"


def read_directory(folder: str) -> dict[str, Any]:
    """Return the model of a directory, as a config would give it, without its classes.

    Without a preprocessor_config.json, images are normalised by ImageNet's statistics. Raises
    `ValueError` for another architecture than EoMT or Mask2Former, and for a field that cannot be
    used.
    """
    path = Path(folder) / "config.json"
    found = _read(path)
    kind = found.get("model_type")
    if kind not in ("eomt", "mask2former"):
        raise ValueError(
            f"{path}: model_type is {_cut(kind)}; give a directory of an EoMT or a Mask2Former, or "
            "a config of mmsegmentation with train.weights"
        )
    model = {"num_classes": 2, **_arguments(path, found, kind), "test_cfg": {"mode": "whole"}}
    preparation = Path(folder) / "preprocessor_config.json"
    given = _read(preparation) if preparation.is_file() else {}
    if given:
        model["data_preprocessor"] = _normalisation(preparation, given)
    if kind == "eomt":
        return {"type": "Eomt", **model}
    model["backbone"] = _backbone(path, found)
    model["decoder_layers"] -= 1  # transformers counts the prediction before them
    model["divisor"] = _value(preparation, "size_divisor", given.get("size_divisor", 32), 32)
    return {"type": "Mask2Former", **model}


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST} bytes")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no config of a model ({error}); give another") from None
    return found


def _backbone(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backbone of a Mask2Former as its `backbone`."""
    given = found.get("backbone_config")
    kind = given.get("model_type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind not in ("swin", "resnet"):
        raise ValueError(
            f"{path}: backbone_config has the model_type {_cut(kind)}; give a directory of a "
            "Mask2Former around a swin or a resnet"
        )
    return {"arch": kind, **_arguments(path, given, kind)}


def _arguments(path: Path, found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the numbers of a model or a backbone, by our arguments."""
    for field, value in _FIXED[kind].items():
        if found.get(field, value) != value:
            raise ValueError(f"{path}: {field} is not {value}, which is all that is supported")
    return {
        name: _value(path, field, found.get(field, default), default)
        for name, (field, default) in _FIELDS[kind].items()
    }


def _normalisation(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean and the standard deviation that images in 0..255 are normalised by."""
    scale, mean, std = 1.0, [0.0] * 3, [1.0] * 3
    if _value(path, "do_rescale", found.get("do_rescale", True), True):
        scale = _value(path, "rescale_factor", found.get("rescale_factor", 1 / 255), 1 / 255)
    if _value(path, "do_normalize", found.get("do_normalize", True), True):
        mean = _value(path, "image_mean", found.get("image_mean"), [0.485, 0.456, 0.406])
        std = _value(path, "image_std", found.get("image_std"), [0.229, 0.224, 0.225])
    if not all(value >= _SMALLEST for value in (scale, *std)):
        raise ValueError(
            f"{path}: image_std is {std}, rescale_factor {scale}; give at least {_SMALLEST}"
        )
    return {"mean": [value / scale for value in mean], "std": [value / scale for value in std]}


def _value(path: Path, field: str, value: Any, default: Any) -> Any:
    """Return a field's value, if it has the type of its default: a number, or a list of numbers."""
    several = isinstance(default, list)
    given, usual = (value, default) if several else ([value], [default])
    fits = isinstance(given, list) and len(given) == len(usual)
    if not fits or not all(_is_like(field, each, usual[0]) for each in given):
        raise ValueError(
            f"{path}: {field} is {_cut(value)}; give "
            f"{f'{len(usual)} numbers' if several else 'a number'} like {default}"
        )
    return value


def _is_like(field: str, value: Any, default: bool | float) -> bool:
    """Return whether a value is a bool, a whole number or a number in range, as the default is."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        least = 0 if field in _MAY_BE_ZERO else 1
        return isinstance(value, int) and least <= value <= _LARGEST
    return isinstance(value, int | float) and abs(value) <= _LARGEST


def _cut(value: Any) -> str:
    return ascii(value)[:60]
