"""Learned readings of a decoded maskige (X⁻¹ of the paper): picture → class scores.

Both add a correction to the scores of the nearest colour, which starts at zero. So they begin as
GSS-FF, and the paper's order, FT-W ≥ FT ≥ FF, is what training can add.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.segmenters.openmmlab import SwinBlockSequence

__all__ = ["INVERSES", "ConvInverse", "WindowInverse"]

_CONV_WIDTH = 32
_WINDOW_WIDTH = 64
_WINDOW_HEADS = 4
_WINDOW = 7
# Side of the pixel blocks that become channels before the windows: a quarter of the tokens, and
# windows that see twice as far.
_FOLD = 2


def _last(width: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(width, outputs, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class ConvInverse(nn.Module):
    """GSS-FT's: three convolutions."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, _CONV_WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_CONV_WIDTH, _CONV_WIDTH, 3, padding=1),
            nn.GELU(),
        )
        self.conv_seg = _last(_CONV_WIDTH, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return corrections (N, K, H, W) of pictures (N, 3, H, W) in [0, 1]."""
        found: Tensor = self.conv_seg(self.layers(2 * pictures - 1))
        return found


class WindowInverse(nn.Module):
    """GSS-FT-W's: a block of plain and shifted windows (Liu et al. 2021, "Swin Transformer")."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3 * _FOLD**2, _WINDOW_WIDTH, 1)
        self.block = SwinBlockSequence(
            _WINDOW_WIDTH, _WINDOW_HEADS, 2 * _WINDOW_WIDTH, depth=2, window_size=_WINDOW
        )
        self.norm = nn.LayerNorm(_WINDOW_WIDTH)
        self.conv_seg = _last(_WINDOW_WIDTH, num_classes * _FOLD**2)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return corrections (N, K, H, W) of pictures (N, 3, H, W) in [0, 1]."""
        x = self.embed(F.pixel_unshuffle(2 * pictures - 1, _FOLD))
        size = x.shape[2:]
        tokens, *_ = self.block(x.flatten(2).mT, size)
        x = self.norm(tokens).mT.unflatten(2, size)
        return F.pixel_shuffle(self.conv_seg(x), _FOLD)


INVERSES: dict[str, type[nn.Module]] = {"conv": ConvInverse, "window": WindowInverse}
