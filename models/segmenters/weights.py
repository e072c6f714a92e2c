"""Initial weights: files of tensors, fitted to a network whose tensors may have other names.

A file may hold a whole network or its backbone. Names are compared first. Where they differ, as
those of torchvision, timm and mmpretrain do, tensors are compared in the order of their layers,
which a .pth file keeps; a .safetensors file is sorted by name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from models.segmenters.fitting import read_model
from models.segmenters.presets import PRESETS

__all__ = ["RANDOM", "Loaded", "WeightsFile", "initial_weights", "load_weights"]

_log = logging.getLogger(__name__)
RANDOM = "random"  # in place of a file: start from random weights, whatever the config names
_NESTED = ("state_dict", "model", "state_dict_ema", "model_state_dict")  # where tools put tensors
_PREFIXES = ("", "module.", "model.", "backbone.", "module.backbone.", "encoder.")
# A file of the same architecture has nearly all of a backbone, one of another a few tensors.
_LEAST = 0.5
_COUNTER = "num_batches_tracked"  # older files lack it, and no result depends on it


@dataclass(frozen=True)
class WeightsFile:
    """A file of tensors, its SHA-256, and the part of the network that it is for ("" = whole)."""

    path: str
    sha256: str
    part: str = ""


@dataclass(frozen=True)
class Loaded:
    """What a file gave: the state to load, and which tensors found no partner.

    `state` has the network's names. `missing` are tensors of the network that the file lacks or has
    in another shape; `unexpected` are tensors of the file that the network lacks. `by` is "name" or
    "order".
    """

    file: str
    state: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    by: str

    def summary(self) -> dict[str, Any]:
        """Return what a report says of it, as JSON."""
        counts = {"matched": len(self.state), "of": len(self.state) + len(self.missing)}
        return {
            "file": Path(self.file).name,
            "by": self.by,
            **counts,
            "missing": self.missing,
            "unexpected": self.unexpected,
        }


def initial_weights(config: str, weights: str | None = None) -> tuple[WeightsFile, ...]:
    """Return the files that a training of `config` starts from; none for random weights.

    `weights` is a file for the whole network or its backbone, "random", or None for what the config
    itself names. Raises `ValueError` for a file that cannot be read, and for a config that names
    weights at an address: nothing is fetched.
    """
    if weights == RANDOM or (weights is None and config in PRESETS):
        return ()
    if weights is not None:
        return (_digested(Path(weights), ""),)
    found = []
    for part, value in _named(read_model(config), ""):
        if not Path(value).is_file():
            raise ValueError(
                f"config {config} starts from the weights {_address(value)}, and nothing is "
                f"fetched; set train.weights to that file, or to {RANDOM!r}"
            )
        found.append(_digested(Path(value), part))
    return tuple(found)


def load_weights(network: nn.Module, file: WeightsFile) -> Loaded:
    """Read a file and fit it to the network, or to the part that it is for.

    Raises `ValueError` if the file changed, holds no tensors, or has less than half of the
    backbone's numbers.
    """
    if _digest(Path(file.path)) != file.sha256:
        raise ValueError(f"{file.path} changed since the training was planned; start again")
    tensors = _read(Path(file.path))
    target = network.get_submodule(file.part) if file.part else network
    by, names = _match(target, tensors, ordered=Path(file.path).suffix != ".safetensors")
    own = target.state_dict()
    above = f"{file.part}." if file.part else ""
    state = {f"{above}{name}": tensors[source] for name, source in names.items()}
    wanted = {f"{above}{name}" for name in own if not name.endswith(_COUNTER)}
    missing, left = wanted - set(state), set(tensors) - set(names.values())
    loaded = Loaded(file.path, state, sorted(missing), sorted(left), by)
    _check(target, loaded, above)
    _log.info(
        "%s fits %d of %d tensors by %s; random: %s; not used: %s",
        loaded.file,
        len(state),
        len(state) + len(loaded.missing),
        by,
        ", ".join(loaded.missing) or "none",
        ", ".join(loaded.unexpected) or "none",
    )
    return loaded


def _check(target: nn.Module, loaded: Loaded, above: str) -> None:
    backbone = getattr(target, "backbone", None)
    inner = f"{above}backbone." if backbone is not None else above
    numbers = {
        f"{inner}{name}": value.numel()
        for name, value in (target if backbone is None else backbone).state_dict().items()
    }
    found = sum(count for name, count in numbers.items() if name in loaded.state)
    if found < _LEAST * sum(numbers.values()):
        raise ValueError(
            f"{loaded.file} fits {len(loaded.state)} of the network's "
            f"{len(loaded.state) + len(loaded.missing)} tensors; it has "
            f"{', '.join(loaded.unexpected[:3]) or 'no other'}, the network "
            f"{', '.join(loaded.missing[:3])}; give weights of the same architecture"
        )


def _match(
    target: nn.Module, tensors: Mapping[str, Tensor], *, ordered: bool
) -> tuple[str, dict[str, str]]:
    """Return the name in `tensors` of each tensor of `target` that has a partner of its shape.

    Before it comes how they were found, by "name" or, if `tensors` are `ordered`, by "order".
    """
    own = target.state_dict()
    inner = [f"{name}." for name, _ in target.named_children() if name == "backbone"]
    best: dict[str, str] = {}
    for cut in _PREFIXES:
        for add in ("", *inner):
            found = {
                add + name.removeprefix(cut): name
                for name, value in tensors.items()
                if name.startswith(cut) and _fits(own.get(add + name.removeprefix(cut)), value)
            }
            best = max(best, found, key=len)
    if len(best) * 2 >= sum(name.startswith(inner[0]) if inner else True for name in own):
        return "name", best
    found = _in_order(own, tensors, inner[0] if inner else "") if ordered else {}
    return ("order", found) if len(found) > len(best) else ("name", best)


def _in_order(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str
) -> dict[str, str]:
    """Return the partners of all tensors of a backbone, by their order; none unless all fit."""
    wanted = [name for name in own if name.startswith(prefix) and not name.endswith(_COUNTER)]
    given = [name for name in tensors if not name.endswith(_COUNTER)]
    pairs = dict(zip(wanted, given, strict=False))
    kinds = all(_kind(name) == _kind(source) for name, source in pairs.items())
    whole = len(pairs) == len(wanted) and kinds
    fits = whole and all(_fits(own[name], tensors[source]) for name, source in pairs.items())
    return pairs if fits else {}


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _fits(own: Tensor | None, value: Tensor) -> bool:
    return own is not None and own.shape == value.shape


def _read(path: Path) -> dict[str, Tensor]:
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
    return WeightsFile(str(path), _digest(path), part)


def _digest(path: Path) -> str:
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
    if scheme != "open-mmlab" or spec is None or not spec.submodule_search_locations:
        return value
    hub = Path(spec.submodule_search_locations[0]) / "hub" / "openmmlab.json"
    return str(json.loads(hub.read_text()).get(name, value))
