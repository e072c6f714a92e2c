"""Files of initial weights: which a training starts from, and what is in them."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models.generators import pipeline_digest, pipeline_folder
from models.segmenters.fitting import read_model
from models.segmenters.hugging_face import is_directory, weights_in
from models.segmenters.presets import PRESETS

__all__ = ["RANDOM", "WeightsFile", "digest_of", "initial_weights", "read_tensors"]

RANDOM = "random"  # in place of a file: start from random weights, whatever the config names
# mmengine's lists of the addresses behind short names
_HUBS = {
    "open-mmlab": "openmmlab.json",
    "mmcls": "mmcls.json",
    "torchvision": "torchvision_0.12.json",
}
_NESTED = ("state_dict", "model", "state_dict_ema", "model_state_dict")  # where tools put tensors


@dataclass(frozen=True)
class WeightsFile:
    """A file of tensors, its SHA-256, and the part of the network that it is for ("" = whole).

    `path` may be a pipeline's directory, or "embedded", for a network that starts from one.
    """

    path: str
    sha256: str
    part: str = ""


def initial_weights(config: str, weights: str | None = None) -> tuple[WeightsFile, ...]:
    """Return the files that a training of `config` starts from; none for random weights.

    `weights` is a file for the whole network or its backbone, "random", or None for what the config
    itself names. A flow also starts from a pipeline's directory, or from "embedded". Raises
    `ValueError` for a file that cannot be read, and for a config that names weights at an address:
    nothing is fetched.
    """
    if weights == RANDOM:
        return ()
    if weights is not None:
        return (_digested(Path(weights), ""),)
    if is_directory(config):
        return (_digested(weights_in(config), ""),)
    model = PRESETS[config] if config in PRESETS else read_model(config)
    found = [_digested(Path(model["pipeline"]), "")] if "pipeline" in model else []
    for part, value in _named(model, ""):
        if not Path(value).is_file():
            raise ValueError(
                f"config {config} starts from the weights {_address(value)}, and nothing is "
                f"fetched; set train.weights to that file, or to {RANDOM!r}"
            )
        found.append(_digested(Path(value), part))
    return tuple(found)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, in their order; nothing in it runs."""
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as weights ({error}); give another") from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} holds more than tensors, and that would run as code; save its state dict alone"
        ) from None
    for name in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    items = found.items() if isinstance(found, Mapping) else ()
    tensors = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; give a state dict")
    return tensors


def _digested(path: Path, part: str) -> WeightsFile:
    return WeightsFile(str(path), digest_of(path), part)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file or a pipeline. Raises `ValueError` if it cannot be read."""
    if pipeline_folder(path).is_dir():
        return pipeline_digest(pipeline_folder(path))
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(
            f"train.weights={str(path)!r} cannot be read ({error.strerror}); "
            f"give a .safetensors or .pth file, or {RANDOM!r}"
        ) from None


def _named(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the part and the file or address of all weights that a config's model names."""
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index, child in enumerate(node):
            yield from _named(child, f"{path}.{index}".lstrip("."))
    if not isinstance(node, Mapping):
        return
    for key, child in node.items():
        if key == "pretrained" and isinstance(child, str):
            yield path or "backbone", child  # a whole model's are its backbone's
        elif key == "init_cfg":
            inits = child if isinstance(child, Sequence) else [child]
            for init in inits:
                if isinstance(init, Mapping) and init.get("type") == "Pretrained":
                    yield path, str(init.get("checkpoint"))
        else:
            yield from _named(child, f"{path}.{key}".lstrip("."))


def _address(value: str) -> str:
    """Return an address as one that can be fetched; mmengine's short names are looked up."""
    scheme, _, name = value.partition("://")
    spec = find_spec("mmengine")
    if scheme not in _HUBS or spec is None or not spec.submodule_search_locations:
        return value
    hub = Path(spec.submodule_search_locations[0]) / "hub" / _HUBS[scheme]
    return str(json.loads(hub.read_text()).get(name, value))
