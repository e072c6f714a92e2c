"""Loads a labeller from local directories of safetensors, without their code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.guard import guarded
from models.labellers.checks import WEIGHTS, LabellerError, check_labeller
from models.labellers.found import Labeller
from models.limits import limit_of, limited
from models.pretrained import absent_tensors, no_bars, tensor_shapes

__all__ = ["encode", "open_directory", "open_labeller", "open_tokenizer"]

_SIDE = 64  # pixels of the image that tries a labeller


def open_labeller(
    kind: str, path: str | Path, detector: str | Path | None = None, *, device: str = "cpu"
) -> Labeller:
    """Return the labeller of a kind (sam3, clipseg, grounded-sam2) on a device, in float32.

    `path` is its directory; for grounded-sam2 that of a SAM 2, and `detector` that of a Grounding
    DINO. Raises `LabellerError` for directories that `check_labeller` refuses or transformers
    cannot open.
    """
    check_labeller(kind, path, detector)
    labeller = _opened(kind, Path(path), detector, device)
    try:  # a configuration can describe a network that only fails when it computes
        labeller.find(
            torch.zeros(_SIDE, _SIDE, 3, dtype=torch.uint8), ["a"], torch.eye(_SIDE)[None]
        )
    except LabellerError:
        raise
    except Exception as error:
        raise LabellerError(
            f"the labeller {kind} in {path} cannot label an image ({error}); copy its directory "
            "again"
        ) from error
    return labeller


def _opened(kind: str, path: Path, detector: str | Path | None, device: str) -> Labeller:
    # each module imports its model, which takes a second
    if kind == "clipseg":
        from models.labellers.clipseg import ClipSeg

        return ClipSeg(path, device)
    if kind == "sam3":
        from models.labellers.sam3 import Sam3

        return Sam3(path, device)
    from models.labellers.grounded import GroundedSam2

    return GroundedSam2(path, Path(str(detector)), device)


def open_directory(kind: Any, folder: Path, device: str) -> Any:
    """Return the model of class `kind` in a checked directory, in evaluation mode.

    Missing tensors raise `LabellerError`, as all of transformers' errors do.
    """
    options = {"dtype": "float32", "local_files_only": True, "use_safetensors": True}
    try:
        with no_bars(), guarded(folder), limited(limit_of(tensor_shapes(folder / WEIGHTS))):
            model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
        if absent := absent_tensors(report):
            raise ValueError(f"it {absent}")
        return model.eval().requires_grad_(False).to(device)
    except Exception as error:  # transformers raises errors of every kind
        raise LabellerError(
            f"transformers cannot open {folder} ({error}); give a directory that its "
            f"{kind.__name__}.save_pretrained wrote"
        ) from error


def open_tokenizer(kind: Any, folder: Path, words: int) -> Any:
    """Return the tokenizer of a checked directory.

    Raises `LabellerError`, also for one with more tokens than the `words` that the model knows.
    """
    try:
        with guarded(folder):
            tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise LabellerError(
            f"the tokenizer in {folder} cannot be opened ({error}); copy the directory again"
        ) from error
    if len(tokenizer) > words:
        raise LabellerError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens and the model {words}; give "
            "the tokenizer of this model"
        )
    return tokenizer


def encode(
    tokenizer: Any, phrases: Sequence[str], most: int, **options: Any
) -> Mapping[str, Tensor]:
    """Return the tokens of phrases as `input_ids` and `attention_mask`, (C, T).

    Raises `LabellerError` for a phrase of more than `most` tokens; nothing is cut.
    """
    encoded: Mapping[str, Tensor] = tokenizer([*phrases], return_tensors="pt", **options)
    if (length := encoded["input_ids"].shape[1]) > most:
        longest = max(phrases, key=len)
        raise LabellerError(
            f"{longest!r} and the phrases beside it take up to {length} tokens, and the labeller's "
            f"text encoder {most}; shorten the vocabulary's phrases"
        )
    return encoded
