"""Predictions for whole images at their own size: padded, never resized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.segmenters.networks import Segmenter
from models.segmenters.openmmlab import isolated
from models.segmenters.samples import LabelledItem

__all__ = ["batches_of_one_size", "padded_size", "predict_probabilities"]

_DIVISOR = 32  # coarsest stride of the usual backbones
_SMALLEST = 128  # smaller inputs fail in some backbones of stride 32
_MOST_PIXELS = 1 << 24  # of a batch: 8 of Cityscapes' images


@torch.inference_mode()
def predict_probabilities(segmenter: Segmenter, images: Tensor, device: str = "cpu") -> Tensor:
    """Return softmax (N, classes, H, W) float32 on the CPU for images (N, 3, H, W) uint8 RGB.

    Images have any size. They are padded at the bottom and right by repeating the last pixels, and
    the prediction is cropped back, so no image is resized. Computed in full precision.
    """
    height, width = images.shape[-2:]
    bottom, right = _padded(height) - height, _padded(width) - width
    # an mmsegmentation model, unknown to torch's types
    network: Any = segmenter.network.to(device).eval()
    padded = F.pad(images.float(), (0, right, 0, bottom), mode="replicate")
    with isolated():
        batch = network.data_preprocessor({"inputs": list(padded.to(device))}, training=False)
        samples = network.predict(batch["inputs"])
    logits = torch.stack([sample.seg_logits.data for sample in samples])[..., :height, :width]
    return logits.float().softmax(1).cpu()


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Return the (H, W) at which an image is predicted."""
    return _padded(height), _padded(width)


def _padded(side: int) -> int:
    return max(_SMALLEST, -(-side // _DIVISOR) * _DIVISOR)


def batches_of_one_size(
    items: Iterable[LabelledItem], batch_size: int
) -> Iterator[list[LabelledItem]]:
    """Yield neighbouring items of one image size, in order.

    At most `batch_size` at a time, and fewer if the images are large: 16 million pixels or one.
    """
    for (_, height, width), run in groupby(items, key=lambda item: tuple(item["image"].shape)):
        fitting = max(1, min(batch_size, _MOST_PIXELS // (height * width)))
        while batch := list(islice(run, fitting)):
            yield batch
