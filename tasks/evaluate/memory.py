"""Memory: whether the largest image of a set can be predicted here, asked before any is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from infra.memory import available_memory
from infra.voc import VocError

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import Inference, Segmenter

__all__ = ["check_memory"]

# Predicting fewer pixels takes under 1 GB with SegFormer, whose attention grows with their square.
_SMALL = 1 << 20
_GIB = 1 << 30


def check_memory(
    segmenter: Segmenter, path: Path, height: int, width: int, inference: Inference
) -> None:
    """Raise `VocError` if an image of H × W pixels takes more memory than is free."""
    if height * width * max(inference.scales) ** 2 <= _SMALL:
        return
    from models.segmenters import bytes_to_predict

    needed = bytes_to_predict(segmenter, height, width, inference)
    free = available_memory()
    if needed > free:
        raise VocError(
            f"{path} is {width} x {height} pixels; this network needs at least "
            f"{needed / _GIB:.1f} GiB of memory to predict it, and {free / _GIB:.1f} GiB are free; "
            "leave it out of the split, make image and label smaller, or set evaluate.window"
        )
