"""Initial weights, fitted to a network whose tensors may have other names.

A file may hold a whole network or its backbone. Names are compared first. Where they differ, as
those of torchvision, timm and mmpretrain do, tensors are compared in the order of their layers,
which a .pth file keeps; a .safetensors file is sorted by name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.generators import pipeline_folder
from models.segmenters.weight_files import WeightsFile, digest_of, read_tensors

__all__ = ["Loaded", "load_weights"]

_log = logging.getLogger(__name__)
_PREFIXES = ("", "module.", "model.", "backbone.", "module.backbone.", "encoder.")
# A file of the same architecture has nearly all of a backbone, one of another a few tensors.
_LEAST = 0.5
_COUNTER = "num_batches_tracked"  # older files lack it, and no result depends on it


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


def load_weights(network: nn.Module, file: WeightsFile, classes: Sequence[str] = ()) -> Loaded:
    """Read a file and fit it to the network, or to the part that it is for.

    A flow that starts from a pipeline takes the embeddings of the names `classes` from it as well.

    Raises `ValueError` if the file changed, holds no tensors, or has less than half of the
    backbone's numbers.
    """
    if digest_of(Path(file.path)) != file.sha256:
        raise ValueError(f"{file.path} changed since the training was planned; start again")
    tensors = _tensors_for(network, file.path, classes)
    part = _path_of(network, file.part)
    target = network.get_submodule(part) if part else network
    by, names = _match(target, tensors, ordered=Path(file.path).suffix != ".safetensors")
    own = target.state_dict()
    above = f"{part}." if part else ""
    state = {f"{above}{name}": tensors[source] for name, source in names.items()}
    wanted = {f"{above}{name}" for name in own if not name.endswith(_COUNTER)}
    missing = wanted - set(state)
    left = {name for name in tensors if not name.endswith(_COUNTER)} - set(names.values())
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


def _path_of(network: nn.Module, part: str) -> str:
    """Return where a network has a part that a config names; Mask2Former's backbone lies deeper."""
    head, dot, rest = part.partition(".")
    return f"{_backbone_of(network)}{dot}{rest}" if head == "backbone" else part


def _backbone_of(network: nn.Module) -> str:
    return str(getattr(network, "backbone_path", "backbone"))


def _tensors_for(network: Any, path: str, classes: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of a file, or of a pipeline by the network's names."""
    if not pipeline_folder(path).is_dir():
        tensors = read_tensors(Path(path))
        return network.with_own_names(tensors) if hasattr(network, "with_own_names") else tensors
    if not hasattr(network, "initial_weights"):
        raise ValueError(
            f"train.weights={path!r} is a directory, and only a flow (SemFlow) starts from a "
            "pipeline's; give a .safetensors or .pth file"
        )
    started: dict[str, Tensor] = network.initial_weights(path, classes)
    return started


def _check(target: nn.Module, loaded: Loaded, above: str) -> None:
    parts = getattr(target, "pretrained_parts", (f"{_backbone_of(target)}.",))
    own = {name: value.numel() for name, value in target.state_dict().items()}
    inner = {name: count for name, count in own.items() if name.startswith(parts)}
    numbers = {f"{above}{name}": count for name, count in (inner or own).items()}
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
    backbone = f"{_backbone_of(target)}."
    inner = [backbone] if any(name.startswith(backbone) for name in own) else []
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
