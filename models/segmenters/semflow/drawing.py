"""Drawing: label maps → images by a trained flow, and their masks read back by the same flow.

Each image depends on its own label map and seed alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.segmenters.inference import predict_probabilities
from models.segmenters.networks import Segmenter
from models.segmenters.semflow.segmentor import SemFlow

__all__ = ["Drawn", "draw_images", "is_flow"]

_drawing = threading.Lock()  # the network moves between devices, and is shared by all threads


@dataclass(frozen=True)
class Drawn:
    """N images of label maps.

    `images`: (N, H, W, 3) uint8 RGB. `read`: (N, H, W) uint8, the label id that the flow reads back
    at each pixel. `finite`: (N,) bool, False where the flow returned NaN or infinity.
    """

    images: NDArray[np.uint8]
    read: NDArray[np.uint8]
    finite: NDArray[np.bool_]


def is_flow(segmenter: Segmenter) -> bool:
    """Return whether a segmenter is a SemFlow, which draws images as well."""
    return isinstance(segmenter.network, SemFlow)


def draw_images(
    segmenter: Segmenter,
    labels: NDArray[np.uint8],
    seeds: Sequence[int],
    *,
    steps: int,
    device: str = "cpu",
) -> Drawn:
    """Draw an image of each label map (N, H, W) with a SemFlow in `steps` Euler steps; read it.

    Label ids are those of the segmenter's classes; pixels of 255 have none. Computed in full
    precision. Calls from several threads wait for one another.
    """
    network: Any = segmenter.network
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    with _drawing, torch.inference_mode():
        network.to(device).eval()
        given = torch.from_numpy(labels).long().to(device)
        drawn = network.draw(given, steps, generators).float().cpu()
        pixels = ((drawn.nan_to_num().clamp(-1, 1) + 1) * 127.5).round().byte()
        read = predict_probabilities(segmenter, pixels, device).argmax(1)
    return Drawn(
        pixels.permute(0, 2, 3, 1).contiguous().numpy(),
        read.byte().numpy(),
        drawn.isfinite().flatten(1).all(1).numpy(),
    )
