"""DiffuMask's augmentations of training images: blur, occlusion, perspective.

Each takes an image (3, H, W) and a label (H, W), both uint8, and returns the same; random draws
come from `rng` alone. The paper does not publish kernels, sizes and magnitudes; these are the
project's own.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.metrics import IGNORE

__all__ = ["blur", "occlude", "tilt"]

Sample = tuple[Tensor, Tensor]

_BLUR = (0.004, 0.012)  # standard deviation, as a share of the longer side: 0.5 to 1.5 px of 128
_PATCHES = (1, 3)  # least and most patches of an occlusion
_PATCH = (0.08, 0.3)  # side of a patch, as a share of the image's side
_TILT = 0.12  # largest movement of a corner, as a share of the image's side


def blur(image: Tensor, label: Tensor, rng: np.random.Generator) -> Sample:
    """Apply a Gaussian blur to the image; the label stays as it is."""
    sigma = float(rng.uniform(*_BLUR)) * max(label.shape)
    blurred = cv2.GaussianBlur(_array(image), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return _tensor(blurred), label


def occlude(image: Tensor, label: Tensor, rng: np.random.Generator) -> Sample:
    """Cover the image with patches of one colour each; under them the label is 255 (ignored)."""
    image, label = image.clone(), label.clone()
    height, width = label.shape
    for _ in range(int(rng.integers(_PATCHES[0], _PATCHES[1] + 1))):
        tall, wide = (max(1, round(side * float(rng.uniform(*_PATCH)))) for side in (height, width))
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        window = np.s_[top : top + tall, left : left + wide]
        image[:, *window] = torch.from_numpy(rng.integers(0, 256, (3, 1, 1), dtype=np.uint8))
        label[window] = IGNORE
    return image, label


def tilt(image: Tensor, label: Tensor, rng: np.random.Generator) -> Sample:
    """Apply a random perspective by moving the four corners.

    Outside the original image the result is black and its label 255.
    """
    height, width = label.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + rng.uniform(-_TILT, _TILT, (4, 2)).astype(np.float32) * [width, height]
    view = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    warped = cv2.warpPerspective(_array(image), view, (width, height), flags=cv2.INTER_LINEAR)
    ids = cv2.warpPerspective(
        label.numpy(), view, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORE
    )
    return _tensor(warped), torch.from_numpy(ids)


def _array(image: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))


def _tensor(image: NDArray[np.uint8] | cv2.typing.MatLike) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.uint8))
