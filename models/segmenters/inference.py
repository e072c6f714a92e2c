"""Predictions for images of any size: padded, and resized or cut into windows only if asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.segmenters.networks import Segmenter
from models.segmenters.openmmlab import isolated
from models.segmenters.samples import LabelledItem

__all__ = ["Inference", "batches_of_one_size", "padded_size", "predict_probabilities"]

_DIVISOR = 32  # coarsest stride of the usual backbones
_SMALLEST = 128  # smaller inputs fail in some backbones of stride 32
_MOST_PIXELS = 1 << 24  # of a batch: 8 of Cityscapes' images


@dataclass(frozen=True)
class Inference:
    """How an image is predicted; softmax values of several predictions are averaged.

    `scales` are factors of the image's size. With `flip` the mirrored image counts as well. With
    `window`, images whose sides are longer are predicted in squares of that side in pixels, which
    overlap by a third, as mmsegmentation's Cityscapes configs do.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None


@torch.inference_mode()
def predict_probabilities(
    segmenter: Segmenter,
    images: Tensor,
    device: str = "cpu",
    inference: Inference = Inference(),
) -> Tensor:
    """Return softmax (N, classes, H, W) float32 on the CPU for images (N, 3, H, W) uint8 RGB.

    Images have any size. They are padded at the bottom and right by repeating the last pixels, and
    the prediction is cropped back; only `inference.scales` resize them. Computed in full precision.
    """
    size = images.shape[-2:]
    segmenter.network.to(device).eval()
    total = torch.zeros((), device=device)
    for scale in inference.scales:
        scaled = images.float().to(device)
        if scale != 1:
            sides = [max(1, round(side * scale)) for side in size]
            scaled = F.interpolate(scaled, sides, mode="bilinear", antialias=scale < 1)
        for view in (scaled, scaled.flip(-1)) if inference.flip else (scaled,):
            found = _in_windows(segmenter, view, inference.window)
            found = found if view is scaled else found.flip(-1)
            if found.shape[-2:] != size:
                found = F.interpolate(found, size, mode="bilinear")
            total = total + found
    views = len(inference.scales) * (1 + inference.flip)
    return (total / views).cpu()


def _in_windows(segmenter: Segmenter, images: Tensor, window: int | None) -> Tensor:
    """Return the mean softmax of all windows that show a pixel."""
    height, width = images.shape[-2:]
    if window is None or max(height, width) <= window:
        return _softmax(segmenter, images)
    total = images.new_zeros((len(images), len(segmenter.classes), height, width))
    count = images.new_zeros((height, width))
    for top in _starts(height, window):
        for left in _starts(width, window):
            part = np.s_[..., top : top + window, left : left + window]
            total[part] += _softmax(segmenter, images[part])
            count[part] += 1
    return total / count


def _starts(side: int, window: int) -> list[int]:
    """Return where windows begin along a side; the last one ends with it."""
    last = max(0, side - window)
    return [*range(0, last, max(1, window * 2 // 3)), last]


def _softmax(segmenter: Segmenter, images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    bottom, right = _padded(height) - height, _padded(width) - width
    # an mmsegmentation model, unknown to torch's types
    network: Any = segmenter.network
    padded = F.pad(images, (0, right, 0, bottom), mode="replicate")
    with isolated():
        batch = network.data_preprocessor({"inputs": list(padded)}, training=False)
        samples = network.predict(batch["inputs"])
    logits = torch.stack([sample.seg_logits.data for sample in samples])[..., :height, :width]
    return logits.float().softmax(1)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Return the (H, W) at which an image is predicted."""
    return _padded(height), _padded(width)


def _padded(side: int) -> int:
    return max(_SMALLEST, -(-side // _DIVISOR) * _DIVISOR)


def batches_of_one_size(
    items: Iterable[LabelledItem], batch_size: int, scale: float = 1.0
) -> Iterator[list[LabelledItem]]:
    """Yield neighbouring items of one image size, in order.

    At most `batch_size` at a time, and fewer if the images are large: 16 million pixels or one.
    They are predicted at up to `scale` times their size.
    """
    for (_, height, width), run in groupby(items, key=lambda item: tuple(item["image"].shape)):
        pixels = height * width * max(1.0, scale) ** 2
        fitting = max(1, min(batch_size, int(_MOST_PIXELS / pixels)))
        while batch := list(islice(run, fitting)):
            yield batch
