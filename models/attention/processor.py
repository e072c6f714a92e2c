"""Attention processors that record: the output is the original's, the probabilities are averaged.

`RecordingProcessor` calls the processor that it wraps, so the image cannot change, and keeps the
queries and keys that this one projects. softmax(QKᵀ) of the conditional half is computed again, in
small blocks, and added to sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

__all__ = ["Means", "Overheard", "RecordingProcessor", "grid", "split_heads"]

# Probabilities computed at once. On a CPU 1 MB, which fits its cache: with 16 MB the same sums took
# 1.3 times as long at 16² and 1.4 times at 32². On other devices 64 MB, for few kernel launches.
BLOCK = {"cpu": 2**18, "else": 2**24}


class Means:
    """Sums of attention over heads by resolution, and how to read the present U-Net call.

    `size`: latent (height, width). `conditional`: rows of the batch with prompts. `weights`:
    (B, T, W), see `Spans`. `text`: (B, T, d), read instead of the prompts unless None. `largest`:
    the most positions of a self-attention layer that is recorded; 0 records none.
    """

    size: tuple[int, int]
    conditional: slice
    weights: Tensor
    text: Tensor | None = None

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._sums: dict[tuple[str, int, int], Tensor] = {}
        self._counts: dict[tuple[str, int, int], int] = {}

    def add(
        self, kind: str, query: Tensor, key: Tensor, bias: Tensor | None, weights: Tensor | None
    ) -> None:
        """Add softmax(query·keyᵀ + bias), summed over heads and, if there are `weights`, over
        tokens.

        All float32: `query` (B, h, N, d); `key` (B, h, M, d), the scale in it; `bias` (B, 1, M);
        `weights` (B, M, W).
        """
        images, heads, positions, _ = query.shape
        where = (kind, *grid(positions, self.size))
        if where not in self._sums:
            width = key.shape[2] if weights is None else weights.shape[2]
            self._sums[where] = query.new_zeros(images, positions, width)
            self._counts[where] = 0
        self._counts[where] += heads
        limit = BLOCK.get(query.device.type, BLOCK["else"])
        for rows, some in _blocks(images, heads, positions * key.shape[2], limit):
            scores = query[rows, some] @ key[rows, some].transpose(-1, -2)
            if bias is not None:
                scores += bias[rows, None]
            summed = scores.softmax(dim=-1).sum(dim=1)
            total = self._sums[where][rows]
            total.add_(summed) if weights is None else total.baddbmm_(summed, weights[rows])

    def mean(self, kind: str) -> dict[int, tuple[Tensor, tuple[int, int]]]:
        """Return longer side → mean (B, N, W or N) and grid (height, width), smallest first."""
        found = sorted((h * w, h, w) for name, h, w in self._sums if name == kind)
        return {
            max(h, w): (self._sums[kind, h, w] / self._counts[kind, h, w], (h, w))
            for _, h, w in found
        }


class RecordingProcessor:
    """Wraps one attention layer's processor, and adds the layer's attention to `means`."""

    def __init__(self, original: Any, means: Means) -> None:
        self.original = original
        self.means = means

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Return the original processor's output for the same arguments."""
        is_own = encoder_hidden_states is None
        layer: Any = (
            attn if is_own and hidden_states.shape[1] > self.means.largest else Overheard(attn)
        )
        output: Tensor = self.original(
            layer, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
        )
        if layer is not attn:
            self._record(layer, "self" if is_own else "cross", attention_mask)
        return output

    @torch.no_grad()
    def _record(self, layer: Overheard, kind: str, mask: Tensor | None) -> None:
        means = self.means
        rows = means.conditional
        query = split_heads(layer.query[rows].float(), layer.heads)
        keys = layer.key[rows]
        bias = None if mask is None else mask[rows].float()
        if kind == "cross" and means.text is not None:
            keys = layer.to_k(means.text)
            bias = None  # the mask belongs to the prompts' tokens
        key = split_heads(keys.float() * layer.scale, layer.heads)
        means.add(kind, query, key, bias, means.weights if kind == "cross" else None)


class Overheard:
    """Stands for an attention layer and keeps its projections, so that none is computed twice."""

    query: Tensor
    key: Tensor

    def __init__(self, layer: Attention) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def to_q(self, hidden_states: Tensor) -> Tensor:
        """Return the layer's queries, and keep them."""
        self.query = self._layer.to_q(hidden_states)
        return self.query

    def to_k(self, hidden_states: Tensor) -> Tensor:
        """Return the layer's keys, and keep them."""
        self.key = self._layer.to_k(hidden_states)
        return self.key


def grid(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a layer with `positions`, in a U-Net for latents of `size`.

    The U-Net halves both sides, rounding up. Raises `ValueError` if no halving has that many.
    """
    height, width = size
    while height * width > positions:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != positions:
        raise ValueError(
            f"an attention layer has {positions} positions, which latents of {size} never halve to"
        )
    return height, width


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """(B, N, h·d) → (B, h, N, d)."""
    images, positions, _ = projected.shape
    return projected.view(images, positions, heads, -1).transpose(1, 2)


def _blocks(images: int, heads: int, scores: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Yield images and heads to compute together: at most `limit` of `scores` per head."""
    some_heads = max(1, min(heads, limit // scores))
    some_images = max(1, limit // (heads * scores)) if some_heads == heads else 1
    for image in range(0, images, some_images):
        for head in range(0, heads, some_heads):
            yield slice(image, image + some_images), slice(head, head + some_heads)
