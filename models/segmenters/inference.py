"""Whole images through a segmenter, at their own size: padded, never stretched."""

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

__all__ = ["batches_of_one_size", "predict_probabilities"]

_DIVISOR = 32  # coarsest stride of the usual backbones
_LEAST = 128  # smaller inputs fail in some backbones of stride 32


@torch.inference_mode()
def predict_probabilities(segmenter: Segmenter, images: Tensor, device: str = "cpu") -> Tensor:
    """Softmax (N, classes, H, W) float32 on the CPU for images (N, 3, H, W) uint8 RGB of any size,
    in full precision.

    Images are padded at the bottom and right with their own last pixels and the answer is cut back,
    so every pixel is seen at its own scale.
    """
    height, width = images.shape[-2:]
    right, bottom = _missing(width), _missing(height)
    network: Any = segmenter.network.to(
        device
    ).eval()  # an mmsegmentation model, which torch's types don't know
    padded = F.pad(images.float(), (0, right, 0, bottom), mode="replicate")
    with isolated():
        batch = network.data_preprocessor({"inputs": list(padded.to(device))}, training=False)
        samples = network.predict(batch["inputs"])
    logits = torch.stack([sample.seg_logits.data for sample in samples])[..., :height, :width]
    return logits.float().softmax(1).cpu()


def _missing(side: int) -> int:
    return max(_LEAST, -(-side // _DIVISOR) * _DIVISOR) - side


def batches_of_one_size(
    items: Iterable[LabelledItem], batch_size: int
) -> Iterator[list[LabelledItem]]:
    """Neighbouring items whose images have one size, at most `batch_size` together, in order."""
    for _, run in groupby(items, key=lambda item: tuple(item["image"].shape)):
        while batch := list(islice(run, batch_size)):
            yield batch
