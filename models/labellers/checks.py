"""Checks of a labeller's directories before they are loaded: the right model, no pickles, no code.

Only names, JSON files and headers of safetensors are read, so a check takes milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from models.pretrained import files_digest, read_json, tensor_shapes

__all__ = ["KINDS", "WEIGHTS", "LabellerError", "check_labeller", "labeller_digest"]

# Kind → its directories, by the setting that names each → the values of model_type that are loaded.
# The published directories of SAM 2 and SAM 3 describe the model for videos, which holds the one
# for images.
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "sam3": {"path": ("sam3", "sam3_video")},
    "clipseg": {"path": ("clipseg",)},
    "grounded-sam2": {"path": ("sam2", "sam2_video"), "detector": ("grounding-dino",)},
}
_TEXT = {"sam3", "sam3_video", "clipseg", "grounding-dino"}  # those that read phrases
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
WEIGHTS = "model.safetensors"
# transformers would import the first and load the second; quantised models need other libraries
_ELSEWHERE = {"auto_map", "transformers_weights", "quantization_config"}


class LabellerError(Exception):
    """A labeller's directory or a phrase cannot be used; the message has the remedy."""


def check_labeller(kind: str, path: str | Path, detector: str | Path | None = None) -> None:
    """Raise `LabellerError` unless the directories of a labeller of this kind can be loaded.

    `path` has the model of masks, `detector` that of boxes, for a kind that has both. Checked are
    config.json and the model it describes, code of its own, tokenizer, and the file of weights.
    """
    for field, wanted in _models_of(kind).items():
        folder = {"path": path, "detector": detector}[field]
        if folder is None:
            raise LabellerError(
                f"a labeller of kind {kind!r} has no {field}; give the directory of a {wanted[0]}"
            )
        _check_directory(Path(folder), f"kind {kind!r}, {field}", wanted)


def labeller_digest(path: str | Path, detector: str | Path | None = None) -> str:
    """Return the SHA-256 of names and contents of weights, configurations and vocabularies."""
    folders = [Path(folder) for folder in (path, detector) if folder is not None]
    parts = [files_digest(folder, folder.iterdir()) for folder in folders]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _models_of(kind: str) -> dict[str, tuple[str, ...]]:
    if kind not in KINDS:
        raise LabellerError(f"kind of labeller {kind!r} is not one of {', '.join(KINDS)}")
    return KINDS[kind]


def _check_directory(folder: Path, what: str, wanted: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise LabellerError(
            f"{what}: {folder} is not a directory; give that of a {wanted[0]}, as transformers' "
            "save_pretrained writes it"
        )
    config = read_json(folder / "config.json", LabellerError)
    found = config.get("model_type")
    if found not in wanted:
        raise LabellerError(
            f"{what}: {folder}/config.json has the model_type {ascii(found)[:60]}; give the "
            f"directory of a {' or a '.join(wanted)}, or the kind that belongs to this one"
        )
    _refuse_elsewhere(folder, config)
    if (folder / "adapter_config.json").exists():  # it names a model elsewhere
        raise LabellerError(
            f"{what}: {folder} is an adapter for another model (adapter_config.json); write the "
            "whole model with its save_pretrained"
        )
    if found in _TEXT and not any(_has(folder, names) for names in _VOCABULARIES):
        raise LabellerError(
            f"{what}: {folder} has no tokenizer.json and no vocabulary; copy the whole directory"
        )
    _check_weights(folder, what)


def _refuse_elsewhere(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a directory that leads to code or to other weights than its own."""
    names = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
    parts = [folder / name for name in names if (folder / name).is_file()]
    described = {part.name: read_json(part, LabellerError) for part in parts}
    for file, content in ({"config.json": config} | described).items():
        for name, value in _fields(content):
            kernel = name.endswith("attn_implementation") and "/" in str(value)
            if name in _ELSEWHERE or kernel:
                raise LabellerError(
                    f"{folder}/{file}: {name} is {ascii(value)[:60]}, which leads to code or "
                    f"weights elsewhere; take it out, or write the whole model with save_pretrained"
                )


def _fields(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield all names inside a JSON value with their values, however deep."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _check_weights(folder: Path, what: str) -> None:
    if not (folder / WEIGHTS).is_file():
        others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt"))
        pickles = f", only {', '.join(others)}, which can run code when loaded" if others else ""
        raise LabellerError(
            f"{what}: {folder} has no {WEIGHTS}{pickles}; write the weights with transformers' "
            "save_pretrained, where you trust them, into one file"
        )
    try:
        tensor_shapes(folder / WEIGHTS)  # compares the header with the file's length
    except (SafetensorError, OSError) as error:
        raise LabellerError(
            f"{folder / WEIGHTS} is cut short or damaged ({error}); copy it again"
        ) from None
