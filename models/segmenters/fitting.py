"""A config's model, read and fitted to other classes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from inspect import isclass
from pathlib import Path
from typing import Any

from models.metrics import IGNORE
from models.segmenters.checks import check_size, is_class_weight
from models.segmenters.configs import read_config
from models.segmenters.hugging_face import is_directory, read_directory
from models.segmenters.openmmlab import MODELS
from models.segmenters.presets import PRESETS
from models.segmenters.segmentor import OwnSegmentor

__all__ = ["find_config", "fit_model", "read_model", "with_tuples"]

# Mean and standard deviation of ImageNet's RGB in 0..255: mmsegmentation's default, close enough
# for photographs.
_MEAN = [123.675, 116.28, 103.53]
_STD = [58.395, 57.12, 57.375]
_log = logging.getLogger(__name__)


def read_model(path: str) -> dict[str, Any]:
    """Return the `model` of an mmsegmentation config: a file, or the name of one that it ships.

    A directory of Hugging Face is read by its config.json. Raises `ValueError` if there is no such
    file, or no whole model of reasonable size in it.
    """
    if is_directory(path):
        return read_directory(path)
    file = find_config(path)
    if file is None:
        near = ", ".join(get_close_matches(path, [*PRESETS, *_shipped_configs()], n=3))
        raise ValueError(
            f"config={path!r} is neither one of {sorted(PRESETS)}, nor an mmsegmentation config "
            f"file, nor the name of one that it ships{near and f', such as {near}'}"
        )
    model = read_config(file).get("model")
    own = _own_models()
    if not isinstance(model, dict) or not ("decode_head" in model or model.get("type") in own):
        raise ValueError(
            f"{path} holds no `model` with a `decode_head`, and none of {', '.join(own)}; "
            "give a config of a whole mmsegmentation model"
        )
    check_size(model)
    return model


def _own_models() -> list[str]:
    """Return the registered names of the models of our own, which need no `decode_head`."""
    return sorted(
        name
        for name, kind in MODELS.module_dict.items()
        if isclass(kind) and issubclass(kind, OwnSegmentor)
    )


def find_config(name: str) -> Path | None:
    """Return the config file of this path, or the one of this name that mmsegmentation ships."""
    return Path(name) if Path(name).is_file() else _shipped_configs().get(name)


@cache
def _shipped_configs() -> dict[str, Path]:
    """Return the config files of the installed mmsegmentation by name, without ".py"."""
    spec = find_spec("mmseg")
    folders = spec.submodule_search_locations if spec else None
    found = Path((folders or [""])[0], ".mim", "configs").glob("*/*.py")
    return {path.stem: path for path in found if path.parent.name != "_base_"}


def fit_model(model: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Return a copy of `model` for RGB input of any size and `num_classes`, with random weights.

    Batch norms are those of one process. Class weights of the losses are left out, with a logged
    warning: they belong to the classes of the config's own data set. `check_model` refuses the
    others.
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
        if part.get("class_weight") is not None and is_class_weight(part["class_weight"]):
            _fit_class_weight(part, num_classes)
    given = copy.get("data_preprocessor", {})
    statistics = {key: given[key] for key in ("mean", "std") if key in given}
    copy["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        "mean": _MEAN,
        "std": _STD,
        **statistics,
        "size_divisor": 1,
        "pad_val": 0,
        "seg_pad_val": IGNORE,
    }
    return copy


def with_tuples(value: Any) -> Any:
    """Return a value of JSON with its lists of numbers as tuples, as they may have been written."""
    if isinstance(value, Mapping):
        return {key: with_tuples(child) for key, child in value.items()}
    if isinstance(value, list):
        numbers = all(isinstance(child, int | float) for child in value)
        return tuple(value) if numbers else [with_tuples(child) for child in value]
    return value


def _fit_class_weight(loss: dict[str, Any], num_classes: int) -> None:
    """Drop the loss's class weights; fit those that only single out "no object".

    Mask classification (MaskFormer, SAN) weights all classes alike, and "no object" after them.
    """
    weights = loss.pop("class_weight")
    if isinstance(weights, list) and len(weights) > 1:
        *classes, no_object = weights
        if len(set(classes)) == 1 and no_object != classes[0]:
            loss["class_weight"] = [classes[0]] * num_classes + [no_object]
            return
    _log.warning(
        "class_weight of %s is left out: it belongs to the classes of the config's own data set",
        loss.get("type"),
    )


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict inside a configuration, the outermost first."""
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _parts(child)
