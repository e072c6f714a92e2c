"""Any mmsegmentation model, from a name or a config file, made to fit a list of classes.

Weights travel as safetensors beside a JSON configuration; nothing is ever unpickled, and a
configuration read from outside may only name types that mmsegmentation's registry holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import models.segmenters.head  # noqa: F401  (registers the head)
from models.metrics import IGNORE
from models.segmenters.configs import read_config
from models.segmenters.openmmlab import (
    MODELS,
    ConfigDict,
    is_registered,
    isolated,
    revert_sync_batchnorm,
)

__all__ = [
    "DEFAULT",
    "PRESETS",
    "Segmenter",
    "build_segmenter",
    "load_segmenter",
    "pack_segmenter",
    "save_segmenter",
    "unpack_segmenter",
]

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
_FETCHING = {
    "pretrained",
    "checkpoint",
    "checkpoint_path",
}  # of mmengine and timm: a path or address to unpickle
_MOST_PARTS = 10_000  # a list of lists of lists can be short to write
# Mean and spread of ImageNet's RGB in 0..255: mmsegmentation's own default, near enough for any
# photograph.
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@dataclass(frozen=True)
class Segmenter:
    """A network with what is needed to build it again;

    `classes[i]` is the name of label id i, the first the ground.
    """

    network: torch.nn.Module
    config: dict[str, Any]
    classes: tuple[str, ...]


def _segformer(
    width: int, heads: Sequence[int], layers: Sequence[int], channels: int
) -> dict[str, Any]:
    """MiT backbone and all-MLP head;

    Xie et al. 2021, table 6 (`heads` are multiples of `width` as well).
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


DEFAULT = "segformer"
PRESETS: dict[str, dict[str, Any]] = {
    "segformer": _segformer(32, (1, 2, 5, 8), (1, 1, 1, 1), 128),
    "segformer-b0": _segformer(32, (1, 2, 5, 8), (2, 2, 2, 2), 256),
}


def build_segmenter(config: str, classes: Sequence[str]) -> Segmenter:
    """A network with random weights for `classes` (label ids 0, 1, …; the first is the background).

    `config` is a name in `PRESETS` or the path of an mmsegmentation config file, whose `model` is
    taken: its class counts, normalisation of RGB input and batch norms are fitted, pretrained
    weights are left out. Seed torch first. Raises `ValueError` for an unknown name, a file without
    a model, or fewer than two or more than 255 classes.
    """
    if not 2 <= len(classes) <= IGNORE or len(set(classes)) < len(classes):
        raise ValueError(
            f"classes={list(classes)!r}: give 2 to {IGNORE} different names, the background first"
        )
    model = PRESETS[config] if config in PRESETS else _read_model(config)
    return _assemble(_fitted(model, len(classes)), tuple(classes))


def _read_model(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(
            f"config={path!r} is neither one of {sorted(PRESETS)} nor an mmsegmentation config file"
        )
    model = read_config(Path(path)).get("model")
    if not isinstance(model, dict) or "decode_head" not in model:
        raise ValueError(
            f"{path} holds no `model` with a `decode_head`; give a config of a whole mmsegmentation model"
        )
    if next(islice(_parts(model), _MOST_PARTS, None), None) is not None:
        raise ValueError(
            f"{path} describes a model of over {_MOST_PARTS} parts; give a smaller one"
        )
    return model


def _fitted(model: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """A copy for RGB input of any size and `num_classes`, with one process' batch norm and random
    weights.
    """
    copy: dict[str, Any] = json.loads(json.dumps(model))
    for part in _parts(copy):
        part.pop("pretrained", None)
        if "Pretrained" in json.dumps(part.get("init_cfg")):
            part.pop("init_cfg")
        if "num_classes" in part:
            part["num_classes"] = num_classes
        if part.get("type") == "SyncBN":
            part["type"] = "BN"
    kept = {
        key: value
        for key, value in copy.get("data_preprocessor", {}).items()
        if key in ("mean", "std")
    }
    copy["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        "mean": _MEAN,
        "std": _STD,
        **kept,
        "size_divisor": 1,
        "pad_val": 0,
        "seg_pad_val": IGNORE,
    }
    return copy


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every dict inside a configuration, the outermost first."""
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _parts(child)


def _assemble(model: dict[str, Any], classes: tuple[str, ...]) -> Segmenter:
    foreign = [part["type"] for part in _parts(model) if not is_registered(part.get("type", "BN"))]
    if foreign:  # the registry would import and call whatever a name leads to
        raise ValueError(
            f"config names types outside mmsegmentation's registry: {foreign}; use registered names"
        )
    if fetched := {
        name for part in _parts(model) for name in _FETCHING & part.keys() if part[name]
    }:
        raise ValueError(
            f"config names weights to load ({', '.join(sorted(fetched))}); take that out of it"
        )
    with isolated():
        try:
            network = revert_sync_batchnorm(MODELS.build(ConfigDict(json.loads(json.dumps(model)))))
        except Exception as error:  # constructors raise whatever they do not expect
            raise ValueError(
                f"mmsegmentation cannot build the config's model ({error}); correct it"
            ) from error
    return Segmenter(network, {"model": model, "classes": list(classes)}, classes)


def pack_segmenter(segmenter: Segmenter) -> dict[str, bytes]:
    """The files of a checkpoint by name:

    `weights.safetensors` and `config.json`; equal weights give equal bytes.
    """
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in segmenter.network.state_dict().items()
    }
    return {
        WEIGHTS: safetensors.torch.save(state),
        CONFIG: json.dumps(segmenter.config, indent=1).encode(),
    }


def unpack_segmenter(files: Mapping[str, bytes]) -> Segmenter:
    """The segmenter of `pack_segmenter`, in evaluation mode.

    Raises `ValueError` if weights and config do not fit.
    """
    try:
        config = json.loads(files[CONFIG])
        segmenter = _assemble(dict(config["model"]), tuple(map(str, config["classes"])))
        segmenter.network.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"not a segmenter's {WEIGHTS} and {CONFIG}: {error}; train again"
        ) from error
    segmenter.network.eval()
    return segmenter


def save_segmenter(segmenter: Segmenter, folder: Path) -> None:
    """Write the files of `pack_segmenter` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pack_segmenter(segmenter).items():
        (folder / name).write_bytes(content)


def load_segmenter(folder: Path) -> Segmenter:
    """Read what `save_segmenter` wrote.

    Raises `ValueError` naming what is missing or does not fit.
    """
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {missing}; give a folder that `save_segmenter` wrote")
    return unpack_segmenter({name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)})
