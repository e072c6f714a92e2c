"""Cost: what predicting takes with a network here: time, memory, size."""

from __future__ import annotations

import statistics
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from collections.abc import Iterable

    from models.segmenters import Inference, LabelledItem, Segmenter

__all__ = ["cost_of"]

_BATCHES = 8  # timed, after one that warms up


def cost_of(
    segmenter: Segmenter, items: Iterable[LabelledItem], batch_size: int, inference: Inference
) -> dict[str, Any]:
    """Return `images_per_second`, `peak_bytes` and `parameters` of predicting `items`.

    Speed is the median over batches, of the prediction alone. The peak is that of one batch.
    """
    import torch

    from models.segmenters import batches_of_one_size, peak_bytes, predict_probabilities

    batches = batches_of_one_size(items, batch_size, max(inference.scales))
    speeds: list[float] = []
    peak = 0
    for number, batch in enumerate(islice(batches, 1 + _BATCHES)):
        images = torch.stack([item["image"] for item in batch])
        if number == 0:
            peak = peak_bytes(segmenter, images, inference)
        begun = time.perf_counter()
        predict_probabilities(segmenter, images, inference=inference)
        speeds.append(len(batch) / (time.perf_counter() - begun))
    return {
        "images_per_second": statistics.median(speeds[1:] or speeds),
        "peak_bytes": peak,
        "parameters": sum(each.numel() for each in segmenter.network.parameters()),
    }
