"""Opening of foreign models by diffusers and transformers: no tensor may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

__all__ = ["no_bars", "open_model"]


def open_model(kind: Any, folder: Path, **options: Any) -> Any:
    """Return the model of class `kind` in `folder`, from safetensors, in evaluation mode.

    `options` are those of its `from_pretrained`. Both libraries fill tensors that are missing in
    the file with noise and only log it, so missing tensors raise `ValueError` here.
    """
    local = {"local_files_only": True, "use_safetensors": True}
    model, report = kind.from_pretrained(folder, output_loading_info=True, **local, **options)
    absent = sorted([*report["missing_keys"], *(each[0] for each in report["mismatched_keys"])])
    if absent:
        raise ValueError(
            f"{folder} lacks {len(absent)} tensors of the model that its config.json describes, "
            f"such as {absent[0]}: configuration and weights are of different models, "
            "or the weights were not saved completely"
        )
    return model.eval().requires_grad_(False)


@contextmanager
def no_bars() -> Iterator[None]:
    """Show no progress bars of the two libraries."""
    shown = [
        each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()
    ]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()
