"""DiffuMask's augmentations of training pictures: blur, occlusion, perspective. Labels stay on
their pixels.

Each takes an image (3, H, W) and a label (H, W), both uint8, and gives back the same; what is drawn
comes from `rng` alone. The paper's kernels, sizes and magnitudes are not published: those here are
the project's own.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.metrics import IGNORE

__all__ = ["blur", "occlude", "tilt"]

Picture = tuple[Tensor, Tensor]

_BLUR = (0.004, 0.012)  # standard deviation, in sides of the picture: 0.5 to 1.5 pixels of 128
_PATCHES, _PATCH = (
    (1, 3),
    (0.08, 0.3),
)  # how many, and how long their sides are, in sides of the picture
_TILT = 0.12  # how far a corner moves at most, in sides of the picture


def blur(image: Tensor, label: Tensor, rng: np.random.Generator) -> Picture:
    """Gaussian blur; the label as it was."""
    sigma = float(rng.uniform(*_BLUR)) * max(label.shape)
    return _tensor(
        cv2.GaussianBlur(_array(image), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    ), label


def occlude(image: Tensor, label: Tensor, rng: np.random.Generator) -> Picture:
    """Patches of one colour each before the picture; under them nothing is known, so the label is
    255.
    """
    image, label = image.clone(), label.clone()
    height, width = label.shape
    for _ in range(int(rng.integers(_PATCHES[0], _PATCHES[1] + 1))):
        tall, wide = (max(1, round(side * float(rng.uniform(*_PATCH)))) for side in (height, width))
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        window = np.s_[top : top + tall, left : left + wide]
        image[:, *window] = torch.from_numpy(rng.integers(0, 256, (3, 1, 1), dtype=np.uint8))
        label[window] = IGNORE
    return image, label


def tilt(image: Tensor, label: Tensor, rng: np.random.Generator) -> Picture:
    """The picture seen from aside: its corners moved.

    Where it shows no more it is black, and the label 255.
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
