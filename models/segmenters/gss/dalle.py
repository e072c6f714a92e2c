"""DALL·E's dVAE, the autoencoder of GSS: 8,192 codes, stride 8.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", appendix A. The published weights are two
pickled modules, which nothing here opens; convert their state dicts to one safetensors file, with
"encoder." and "decoder." before the names, and name it in the config:

    posterior=dict(autoencoder=dict(
        type="DalleTokens", init_cfg=dict(type="Pretrained", checkpoint="dalle.safetensors")))
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DalleTokens"]

_GROUPS = 4  # of blocks, between which the side halves or doubles
_SCALE = 0.8  # appendix A.3: a log-Laplace density on (0, 1), away from its ends
_SHIFT = 0.1


class _Conv(nn.Module):
    """A convolution of the same size; `w` and `b` are its names in the published weights."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs * side**2)
        self.w = nn.Parameter(bound * torch.randn(outputs, inputs, side, side))
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=(self.w.shape[-1] - 1) // 2)


class _Block(nn.Module):
    """A residual bottleneck of four convolutions with the given sides, its branch scaled down."""

    def __init__(self, inputs: int, outputs: int, sides: tuple[int, ...], layers: int) -> None:
        super().__init__()
        hidden = outputs // 4
        self.gain = 1 / layers**2
        self.id_path = _Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.res_path = nn.Sequential()
        widths = (inputs, hidden, hidden, hidden, outputs)
        for index, side in enumerate(sides):
            self.res_path.add_module(f"relu_{index + 1}", nn.ReLU())
            conv = _Conv(widths[index], widths[index + 1], side)
            self.res_path.add_module(f"conv_{index + 1}", conv)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.id_path(x) + self.gain * self.res_path(x)
        return found


class _Half(nn.Module):
    """The encoder or the decoder: an input convolution, four groups of blocks, an output."""

    def __init__(
        self,
        entry: _Conv,
        widths: list[int],
        between: type[nn.Module],
        sides: tuple[int, ...],
        outputs: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential()
        self.blocks.add_module("input", entry)
        for group in range(_GROUPS):
            parts = nn.Sequential()
            for index in range(blocks):
                inputs = widths[group] if index == 0 else widths[group + 1]
                block = _Block(inputs, widths[group + 1], sides, _GROUPS * blocks)
                parts.add_module(f"block_{index + 1}", block)
            if group < _GROUPS - 1:
                parts.add_module("resize", between())
            self.blocks.add_module(f"group_{group + 1}", parts)
        end = nn.Sequential()
        end.add_module("relu", nn.ReLU())
        end.add_module("conv", _Conv(widths[-1], outputs, 1))
        self.blocks.add_module("output", end)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.blocks(x)
        return found


class _Shrink(nn.MaxPool2d):
    def __init__(self) -> None:
        super().__init__(2)


class _Enlarge(nn.Upsample):
    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="nearest")


class DalleTokens(nn.Module):
    """Encoder and decoder as published; other sizes are for tests.

    `width` is that of the finest layers, `entry` that of the decoder's first one, `blocks` the
    number per group. Images are in [0, 1].
    """

    stride = 2 ** (_GROUPS - 1)

    def __init__(
        self,
        codes: int = 8192,
        width: int = 256,
        entry: int = 128,
        blocks: int = 2,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.codes = codes
        up = [width, width, 2 * width, 4 * width, 8 * width]
        first = _Conv(3, width, 7)
        self.encoder = _Half(first, up, _Shrink, (3, 3, 3, 1), codes, blocks)
        down = [entry, 8 * width, 4 * width, 2 * width, width]
        last = _Conv(codes, entry, 1)
        # three channels of means in logits, three of scales that only its training uses
        self.decoder = _Half(last, down, _Enlarge, (1, 3, 3, 3), 6, blocks)

    def encode(self, images: Tensor) -> Tensor:
        """Return the tokens (N, H / 8, W / 8) of images (N, 3, H, W)."""
        return self._logits(images).argmax(1)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Return images of tokens."""
        return self.decode_expected(F.one_hot(tokens, self.codes).movedim(-1, 1))

    def decode_expected(self, probabilities: Tensor) -> Tensor:
        """Return images of distributions over tokens (N, codes, h, w)."""
        weight = next(self.decoder.parameters())
        means: Tensor = self.decoder(probabilities.to(weight.dtype)).float()[:, :3]
        return ((means.sigmoid() - _SHIFT) / _SCALE).clamp(0, 1)

    def round_trip(self, images: Tensor) -> Tensor:
        """Return images encoded and decoded; gradients pass through a hard Gumbel-softmax."""
        logits = self._logits(images)
        if not torch.is_grad_enabled():
            return self.decode_tokens(logits.argmax(1))
        return self.decode_expected(F.gumbel_softmax(logits.float(), hard=True, dim=1))

    def _logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.encoder(_SCALE * images + _SHIFT)
        return found
