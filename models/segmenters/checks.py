"""What the model and the training of a config may hold, checked before anything is built.

The libraries take many texts for a file or an address, and unpickle what they find there: class
weights, checkpoints, embeddings. So text is allowed under listed keys only. A model may name only
types that mmsegmentation's registry holds, since the registry would import any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from models.segmenters.openmmlab import is_registered, is_training_part

__all__ = ["check_model", "check_size", "check_training", "is_class_weight"]

# Keys of text: those of all models that mmsegmentation ships, of the text arguments of all
# classes in its registry but those for files, and of initialisers.
_TEXTS = frozenset(
    {
        "approximate",
        "arch",
        "attention_type",
        "bias",
        "block",
        "bottleneck_type",
        "classes",
        "codes",
        "dataset_name",
        "distribution",
        "frozen_exclude",
        "fusion_types",
        "input_transform",
        "interpolate_mode",
        "layer",
        "loss_name",
        "loss_type",
        "mode",
        "name",
        "nonlinearity",
        "padding",
        "padding_mode",
        "patch_pad",
        "pooling_type",
        "psa_type",
        "readout_type",
        "reduction",
        "sos_token_format",
        "stdc_type",
        "style",
        "templates",
        "type",
        "upsample_mode",
    }
)
# of mmengine's optimisers and schedulers, and of the transforms that change images
_TRAINING_TEXTS = frozenset(
    {
        "backend",
        "color_type",
        "constructor",
        "convention",
        "decay_type",
        "direction",
        "dtype",
        "interpolation",
        "loss_scale",
        "norm_type",
        "pad_mode",
        "padding_mode",
        "param_name",
        "resize_type",
        "rule",
        "type",
    }
)
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")  # neither a path, nor an address, nor a file's suffix
# hold a path or an address; timm also fetches for True
_FETCHING = {"pretrained", "checkpoint", "checkpoint_path"}
_MOST_VALUES = 10_000  # the largest model that mmsegmentation ships has 164
_DEEPEST = 64  # values inside each other; the deepest shipped model has 7


def check_size(model: Any) -> None:
    """Raise `ValueError` for a model of too many values, or of values too deep in each other."""
    level, count, depth = [model], 0, 0
    while level:
        count += len(level)
        depth += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ValueError(
                f"config describes a model of over {_MOST_VALUES} parts, or of parts in over "
                f"{_DEEPEST} others; give a smaller one"
            )
        level = [child for node in level for child in _children(node)]


def _children(node: Any) -> list[Any]:
    if isinstance(node, Mapping):
        return list(node.values())
    return node if isinstance(node, list) else []


def check_model(model: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what a config's model may not hold.

    That is: too many values, types outside mmsegmentation's registry, weights to fetch, class
    weights that are no numbers, and text under a key or of a form that no model needs.
    """
    check_size(model)
    for path, key, value in _values(model, "model", ""):
        if key in _FETCHING and value:
            raise ValueError(
                f"config names weights to load ({path} = {_cut(value)}); take that out of it"
            )
        if key == "class_weight" and not is_class_weight(value):
            raise ValueError(
                f"config's {path} is {_cut(value)}; give a number for each class, or leave it out"
            )
    _check_values(model, "model", is_registered, _TEXTS)


def check_training(training: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what a config's training may not hold, by the same rules.

    `training` has the config's `optim_wrapper`, `param_scheduler` and `pipeline`.
    """
    check_size(training)
    _check_values(training, "training", is_training_part, _TRAINING_TEXTS)


def _check_values(
    node: Mapping[str, Any],
    name: str,
    known: Callable[[Any], bool],
    texts: frozenset[str],
) -> None:
    for path, key, value in _values(node, name, ""):
        if key in ("type", "constructor") and not known(value):
            # the registry would import and call what such a name leads to
            raise ValueError(
                f"config names types outside mmsegmentation's registry: {path} = {_cut(value)}; "
                "use registered names"
            )
        if isinstance(value, str) and not (key in texts and _WORD.fullmatch(value)):
            raise ValueError(
                f"config's {path} is text, {_cut(value)}, which could name a file; "
                f"leave it out. Words may stand under {', '.join(sorted(texts))}"
            )


def is_class_weight(value: Any) -> bool:
    """Whether a loss's `class_weight` is a number, a list of numbers, or None."""
    numbers = value if isinstance(value, list) else [value]
    return value is None or all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in numbers
    )


def _values(node: Any, path: str, key: str) -> Iterator[tuple[str, str, Any]]:
    """Yield every value with its path and key; the items of a list have the list's key."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            below = f"{path}.{name}" if _WORD.fullmatch(name) else f"{path}[{_cut(name)}]"
            yield below, name, child
            yield from _values(child, below, name)
    elif isinstance(node, list):
        for child in node:
            yield path, key, child
            yield from _values(child, path, key)


def _cut(value: Any) -> str:
    return ascii(value)[:60]
