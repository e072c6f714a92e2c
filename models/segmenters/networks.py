"""Any mmsegmentation model, from a name or a config file, fitted to a list of classes.

Weights are stored as safetensors beside a JSON configuration. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch

import models.segmenters.edges
import models.segmenters.eomt
import models.segmenters.gss
import models.segmenters.head
import models.segmenters.mask2former
import models.segmenters.semflow  # noqa: F401  (all register models)
from models.guard import guarded
from models.limits import Limit, limit_of, limited
from models.metrics import IGNORE
from models.segmenters.checks import check_model
from models.segmenters.fitting import fit_model, read_model, with_tuples
from models.segmenters.openmmlab import MODELS, ConfigDict, isolated, revert_sync_batchnorm
from models.segmenters.presets import PRESETS
from models.segmenters.semflow import with_pipeline

__all__ = [
    "Segmenter",
    "build_segmenter",
    "load_segmenter",
    "pack_segmenter",
    "save_segmenter",
    "unpack_segmenter",
]

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
# Without weights to compare with. Building the largest networks that mmsegmentation ships takes
# 3,779 tensors (one network) and 1.3 billion numbers (another).
_LARGEST = Limit(1 << 14, 1 << 32)
_LONGEST_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True)
class Segmenter:
    """A network, and what is needed to build it again.

    `classes[i]` is the name of label id i; the first is the background.
    """

    network: torch.nn.Module
    config: dict[str, Any]
    classes: tuple[str, ...]


def build_segmenter(config: str, classes: Sequence[str]) -> Segmenter:
    """Build a network with random weights for `classes` (label ids 0, 1, …; first the background).

    `config` is a name in `PRESETS` or the path of an mmsegmentation config file. Its `model` is
    fitted: class counts, RGB normalisation and batch norms. Pretrained weights and the losses'
    class weights are left out (see `fit_model`). Seed torch first. Raises `ValueError` for an
    unknown name, a file without a model, or fewer than 2 or more than 255 classes.
    """
    if not 2 <= len(classes) <= IGNORE or len(set(classes)) < len(classes):
        raise ValueError(
            f"classes={list(classes)!r}: give 2 to {IGNORE} different names, the background first"
        )
    model = PRESETS[config] if config in PRESETS else read_model(config)
    fitted = fit_model(with_pipeline(model), len(classes))
    return _assemble(fitted, tuple(classes), _LARGEST)


def _assemble(model: dict[str, Any], classes: tuple[str, ...], limit: Limit) -> Segmenter:
    check_model(model)
    with isolated(), guarded(), limited(limit):
        try:
            network = _built(json.loads(json.dumps(model)))
        except Exception as error:  # constructors raise any type for values they do not expect
            raise ValueError(
                f"mmsegmentation cannot build the config's model ({error}); correct it"
            ) from error
    return Segmenter(network, {"model": model, "classes": list(classes)}, classes)


def _built(model: dict[str, Any]) -> torch.nn.Module:
    try:
        network = MODELS.build(ConfigDict(model))
    except AssertionError:  # some classes want tuples, for which JSON has lists
        network = MODELS.build(ConfigDict(with_tuples(model)))
    return cast(torch.nn.Module, revert_sync_batchnorm(network))


def pack_segmenter(segmenter: Segmenter) -> dict[str, bytes]:
    """Return a checkpoint's files by name: `weights.safetensors` and `config.json`.

    Equal weights give equal bytes.
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
    """Return the segmenter that `pack_segmenter` wrote, in evaluation mode.

    Raises `ValueError` if weights and config do not fit.
    """
    try:
        if len(files[CONFIG]) > _LONGEST_CONFIG:
            raise ValueError(f"{CONFIG} has more than {_LONGEST_CONFIG} bytes")
        config = json.loads(files[CONFIG])
        weights = safetensors.torch.load(files[WEIGHTS])
        limit = limit_of(value.shape for value in weights.values())
        segmenter = _assemble(dict(config["model"]), tuple(map(str, config["classes"])), limit)
        segmenter.network.load_state_dict(weights)
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

    Raises `ValueError` that names what is missing or does not fit.
    """
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {missing}; give a folder that `save_segmenter` wrote")
    return unpack_segmenter({name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)})
