"""Backbones of transformers by numbers: what directories of Mask2Former are built around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedConfig, ResNetConfig, SwinConfig

__all__ = ["backbone_config"]

# levels at strides of 4 to 32
_LEVELS: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


def backbone_config(arch: str, **sizes: Any) -> PreTrainedConfig:
    """Return transformers' config of a backbone of four levels: "swin" or "resnet".

    Raises `ValueError` for another one, and `TypeError` for a size that it does not have.
    """
    known: dict[str, Callable[..., PreTrainedConfig]] = {"swin": _swin, "resnet": _resnet}
    if arch not in known:
        raise ValueError(f"backbone.arch={arch!r}; give one of {', '.join(known)}")
    return known[arch](**sizes)


def _swin(
    width: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_path: float = 0.1,
) -> PreTrainedConfig:
    """Swin; Swin-T by default. Liu et al. 2021, "Swin Transformer", §3.3."""
    if not 0 <= drop_path < 1:
        raise ValueError(f"backbone.drop_path is {drop_path}; give a share of at least 0, under 1")
    return SwinConfig(
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
        window_size=window,
        mlp_ratio=ratio,
        qkv_bias=qkv_bias,
        drop_path_rate=drop_path,
        **_LEVELS,
    )


def _resnet(
    stem: int = 64,
    channels: Sequence[int] = (256, 512, 1024, 2048),
    depths: Sequence[int] = (3, 4, 6, 3),
) -> PreTrainedConfig:
    """ResNet of bottlenecks; ResNet-50 by default. He et al. 2016, "Deep Residual Learning"."""
    return ResNetConfig(
        embedding_size=stem, hidden_sizes=list(channels), depths=list(depths), **_LEVELS
    )
