"""Colours → class scores: the nearest colour, as one product per pixel.

The paper's inverse, a least-squares solution, is singular for more than three classes: noiseless
colours are read wrong. The released code takes the nearest colour, over a tensor of K × 3 numbers
per pixel. ‖x − β_k‖² = ‖x‖² − (2x·β_k − ‖β_k‖²), and ‖x‖² is equal for all classes, so an affine
map, a 1×1 convolution, has the same order.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["scores"]


def scores(pictures: Tensor, palette: Tensor, temperature: float) -> Tensor:
    """Return logits (N, K, H, W): minus the squared distance to each colour, over `temperature`.

    Pictures (N, 3, H, W) and palette (K, 3) are in [0, 1]. The term of ‖x‖², which softmax does not
    see, is left out. Unlike one-hot scores they can be averaged over scales and calibrated.
    """
    weight = (2 * palette)[:, :, None, None] / temperature
    return F.conv2d(pictures, weight.to(pictures), -palette.square().sum(1) / temperature)
