"""Stage II: backbone features → token logits, and the pixel branch beside them.

Chen et al. 2023, §3.3 and the released head: all levels are fused at a quarter of the image's side,
blocks of plain and shifted windows follow, and 1×1 convolutions give the tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.segmenters.openmmlab import SwinBlockSequence

__all__ = ["TokenHead", "TwoBranches"]


class TwoBranches(NamedTuple):
    """Logits of tokens (N, channels, h, w) and of classes (N, K, h, w), at the finest level."""

    tokens: Tensor
    pixels: Tensor


class _Fusion(nn.Module):
    """Levels → one map of `width` channels at the first level's size.

    The paper projects each level, resizes it, concatenates and fuses by a 1×1 convolution. Resizing
    and 1×1 convolutions commute, so here levels are fused before they are resized, and added.
    """

    def __init__(self, in_channels: list[int], channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, channels, 1, bias=False), *_activation(channels))
            for count in in_channels
        )
        self.fuse = nn.ModuleList(nn.Conv2d(channels, width, 1, bias=False) for _ in in_channels)
        self.norm = nn.Sequential(*_activation(width))

    def forward(self, levels: list[Tensor]) -> Tensor:
        size = levels[0].shape[2:]
        parts = [
            F.interpolate(fuse(project(level)), size, mode="bilinear", align_corners=False)
            for level, project, fuse in zip(levels, self.project, self.fuse, strict=True)
        ]
        found: Tensor = self.norm(sum(parts))
        return found


def _activation(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU()


class TokenHead(nn.Module):
    """Token branch and pixel branch of GSS.

    `in_channels` are those of the backbone's levels, the finest first, at strides of 4 and more.
    `channels` is the width of the levels, `width` that of the window blocks (384 and 512 in the
    paper), `depth` their number and `heads` those of their attention; `window` is a side in tokens.
    """

    def __init__(
        self,
        in_channels: list[int],
        outputs: int,
        num_classes: int,
        channels: int = 384,
        width: int = 512,
        depth: int = 2,
        heads: int = 16,
        window: int = 7,
    ) -> None:
        super().__init__()
        self.tokens = _Fusion(in_channels, channels, width)
        self.block = SwinBlockSequence(width, heads, 2 * width, depth=depth, window_size=window)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU())
        self.conv_seg = nn.Conv2d(2 * width, outputs, 1)
        self.pixels = _Fusion(in_channels, channels, channels)
        self.pixel_conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, levels: list[Tensor]) -> TwoBranches:
        """Return the logits of both branches."""
        x = self.tokens(levels)
        size = x.shape[2:]
        windows, *_ = self.block(x.flatten(2).mT, size)
        x = self.norm(windows).mT.unflatten(2, size)
        return TwoBranches(self.conv_seg(self.expand(x)), self.pixel_conv_seg(self.pixels(levels)))
