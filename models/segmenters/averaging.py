"""The moving average of a training's weights, and the choice between it and the last weights."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from models.metrics import class_iou, confusion_matrix, mean_iou
from models.segmenters.inference import batches_of_one_size, predict_probabilities
from models.segmenters.networks import Segmenter
from models.segmenters.openmmlab import EMAHook

__all__ = ["Split", "averaging", "choose_weights", "split_samples"]

_HELD_OUT = 20  # one of so many samples chooses, and is not trained on
_BATCH = 16  # images per prediction


class Split(NamedTuple):
    """A labelled set in two: what is trained on, and what chooses the weights."""

    training: Dataset[Any]
    held_out: Dataset[Any] | None


def split_samples(samples: Dataset[Any], ema: float) -> Split:
    """Hold out every 20th sample if there will be an average to choose.

    Raises `ValueError` for a set of a single sample.
    """
    count = len(cast(Sized, samples))
    if not ema or not count:
        return Split(samples, None)
    if count == 1:
        raise ValueError(
            "train.ema holds out every 20th sample, and the labelled set has only one; "
            "set train.ema to 0"
        )
    held_out = range(0, count, _HELD_OUT)
    training = [index for index in range(count) if index % _HELD_OUT]
    return Split(Subset(samples, training), Subset(samples, held_out))


def averaging(ema: float) -> EMAHook:
    """Return mmengine's hook: after each step, average = ema · average + (1 - ema) · weights.

    The average begins with the weights after the first step. Buffers are the last ones.
    """
    return EMAHook(momentum=1 - ema)


def choose_weights(
    segmenter: Segmenter, average: Mapping[str, Tensor], held_out: Dataset[Any], device: str
) -> dict[str, Any]:
    """Load the better of a network's own weights and their average, by mIoU on `held_out`.

    Returns {"chosen": "ema" or "last", "ema": mIoU, "last": mIoU, "images": count}; a mIoU is None
    if no pixel has a label. The average wins if both are equal.
    """
    last = {name: value.clone() for name, value in segmenter.network.state_dict().items()}
    states: dict[str, Mapping[str, Tensor]] = {"ema": average, "last": last}
    found = {}
    for name, state in states.items():
        segmenter.network.load_state_dict(state)
        found[name] = _miou(segmenter, held_out, device)
    chosen = "last" if found["last"] > found["ema"] else "ema"
    segmenter.network.load_state_dict(states[chosen])
    told = {name: None if np.isnan(value) else value for name, value in found.items()}
    return {"chosen": chosen, **told, "images": len(cast(Sized, held_out))}


def _miou(segmenter: Segmenter, samples: Dataset[Any], device: str) -> float:
    classes = len(segmenter.classes)
    counts = np.zeros((classes, classes), np.int64)
    items = (samples[index] for index in range(len(cast(Sized, samples))))
    for batch in batches_of_one_size(items, _BATCH):
        images = torch.stack([item["image"] for item in batch])
        truth = torch.stack([item["label"] for item in batch])
        said = predict_probabilities(segmenter, images, device).argmax(1)
        counts += confusion_matrix(said.numpy(), truth.numpy(), classes)
    return mean_iou(class_iou(counts))
