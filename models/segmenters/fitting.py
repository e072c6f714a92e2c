"""A config's model, fitted to other classes and checked before anything of it is built.

A config read from outside may only name types that mmsegmentation's registry holds, and may not
name weights to fetch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from models.metrics import IGNORE
from models.segmenters.configs import read_config
from models.segmenters.openmmlab import is_registered
from models.segmenters.presets import PRESETS

__all__ = ["check_model", "fit_model", "read_model"]

# keys of mmengine and timm that hold a path or an address to unpickle
_FETCHING = {"pretrained", "checkpoint", "checkpoint_path"}
_MOST_PARTS = 10_000  # a list of lists of lists can be short to write
# Mean and standard deviation of ImageNet's RGB in 0..255: mmsegmentation's default, close enough
# for photographs.
_MEAN = [123.675, 116.28, 103.53]
_STD = [58.395, 57.12, 57.375]
_log = logging.getLogger(__name__)


def read_model(path: str) -> dict[str, Any]:
    """Return the `model` of an mmsegmentation config file.

    Raises `ValueError` if there is no such file, or no whole model of reasonable size in it.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"config={path!r} is neither one of {sorted(PRESETS)} nor an mmsegmentation config file"
        )
    model = read_config(Path(path)).get("model")
    if not isinstance(model, dict) or "decode_head" not in model:
        raise ValueError(
            f"{path} holds no `model` with a `decode_head`; "
            "give a config of a whole mmsegmentation model"
        )
    if next(islice(_parts(model), _MOST_PARTS, None), None) is not None:
        raise ValueError(
            f"{path} describes a model of over {_MOST_PARTS} parts; give a smaller one"
        )
    return model


def fit_model(model: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Return a copy of `model` for RGB input of any size and `num_classes`, with random weights.

    Batch norms are those of one process. Class weights of the losses are left out, with a logged
    warning: they belong to the classes of the config's own data set.
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
        if part.get("class_weight") is not None:
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


def check_model(model: Mapping[str, Any]) -> None:
    """Raise `ValueError` for types outside mmsegmentation's registry, and for weights to fetch."""
    foreign = [part["type"] for part in _parts(model) if not is_registered(part.get("type", "BN"))]
    if foreign:  # the registry would import and call what such a name leads to
        raise ValueError(
            f"config names types outside mmsegmentation's registry: {foreign}; use registered names"
        )
    fetched = {name for part in _parts(model) for name in _FETCHING & part.keys() if part[name]}
    if fetched:
        raise ValueError(
            f"config names weights to load ({', '.join(sorted(fetched))}); take that out of it"
        )


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict inside a configuration, the outermost first."""
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _parts(child)
