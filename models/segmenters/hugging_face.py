"""Directories of Hugging Face as models: EoMT's config.json, read as data, and its weights.

Only numbers that describe the network are read. transformers loads nothing from the directory, so
no code, address or pickle in it has an effect.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["is_directory", "read_directory", "weights_in"]

_LONGEST = 1 << 20  # bytes of a config.json; the largest have a few thousand lines of class names
# transformers' fields and their defaults (`EomtConfig`), and the arguments of `Eomt` that they are
_EOMT: dict[str, tuple[str, int | float]] = {
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
}
# fields that `Eomt` has no argument for, with the only value that it computes
_FIXED = {"hidden_act": "gelu", "mlp_ratio": 4, "num_channels": 3, "layer_norm_eps": 1e-6}


def is_directory(name: str) -> bool:
    """Return whether `name` is a folder with a config.json."""
    return (Path(name) / "config.json").is_file()


def weights_in(folder: str) -> Path:
    """Return the file of weights of a directory."""
    return Path(folder) / "model.safetensors"


def read_directory(folder: str) -> dict[str, Any]:
    """Return the model of a directory, as a config would give it, without its classes.

    Raises `ValueError` for another architecture than EoMT, and for a field that cannot be used.
    """
    path = Path(folder) / "config.json"
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST} bytes")
        found = json.loads(path.read_bytes())
        kind = found.get("model_type")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"{path} is no config of a model ({error}); give another") from None
    if kind != "eomt":
        raise ValueError(
            f"{path}: model_type is {str(kind)[:60]!r}; give a directory of an EoMT, or a config "
            "of mmsegmentation with train.weights"
        )
    for field, value in _FIXED.items():
        if found.get(field, value) != value:
            raise ValueError(f"{path}: {field} is not {value}, which is all that is supported")
    sizes = {
        name: _number(path, field, found.get(field, default), default)
        for name, (field, default) in _EOMT.items()
    }
    return {"type": "Eomt", "num_classes": 2, **sizes, "test_cfg": {"mode": "whole"}}


def _number(path: Path, field: str, value: Any, default: int | float) -> int | float:
    """Return a field's value, if it has the type of its default."""
    fits = isinstance(value, bool) == isinstance(default, bool) and isinstance(
        value, int if isinstance(default, int) else (int, float)
    )
    least = 0 if isinstance(default, bool) or field == "num_register_tokens" else 1
    if not fits or (isinstance(default, int) and not least <= value <= 1 << 16):
        raise ValueError(f"{path}: {field} is {str(value)[:60]}; give a number like {default}")
    number: int | float = value
    return number
