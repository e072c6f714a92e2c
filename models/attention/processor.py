"""Attention processors that look on: the output is the original processor's own, the probabilities a running mean.

Stands in for nothing: `RecordingProcessor` calls the processor that it covers, with the same arguments, so the picture
cannot change. Beside it, softmax(QKᵀ) of the conditional half is computed in small blocks and added to sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

__all__ = ["Means", "RecordingProcessor"]

BLOCK = 2**22  # probabilities computed at once, 16 MB: twice that is no faster on two cores, and adds to the peak


class Means:
    """Sums of head-wise attention by resolution, and how the U-Net call that is under way has to be read.

    `size`: latent (height, width) · `conditional`: rows of the batch that carry prompts · `weights`: (B, T, W), see
    `Spans` · `largest`: the most positions a self-attention layer may have to be recorded; 0 records none.
    """

    size: tuple[int, int]
    conditional: slice
    weights: Tensor

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._sums: dict[tuple[str, int, int], Tensor] = {}
        self._counts: dict[tuple[str, int, int], int] = {}

    def add(self, kind: str, query: Tensor, key: Tensor, bias: Tensor | None, weights: Tensor | None) -> None:
        """Add softmax(query·keyᵀ + bias), summed over heads and, if there are `weights`, over tokens.

        `query` (B, h, N, d), `key` (B, h, M, d) with the scale in it, `bias` (B, 1, M) or None, `weights` (B, M, W).
        """
        images, heads, positions, _ = query.shape
        where = (kind, *grid(positions, self.size))
        if where not in self._sums:
            width = key.shape[2] if weights is None else weights.shape[2]
            self._sums[where] = query.new_zeros(images, positions, width, dtype=torch.float32)
            self._counts[where] = 0
        self._counts[where] += heads
        for rows, some in _blocks(images, heads, positions * key.shape[2]):
            scores = query[rows, some].float() @ key[rows, some].float().transpose(-1, -2)
            if bias is not None:
                scores += bias[rows, None]
            summed = scores.softmax(dim=-1).sum(dim=1)
            total = self._sums[where][rows]
            total.add_(summed) if weights is None else total.baddbmm_(summed, weights[rows])

    def mean(self, kind: str) -> dict[int, tuple[Tensor, tuple[int, int]]]:
        """Longer side of the grid → mean (B, N, W or N) and the grid's (height, width), smallest first."""
        found = sorted((h * w, h, w) for name, h, w in self._sums if name == kind)
        return {max(h, w): (self._sums[kind, h, w] / self._counts[kind, h, w], (h, w)) for _, h, w in found}


class RecordingProcessor:
    """Covers one attention layer's processor, and adds what the layer attends to, to `means`."""

    def __init__(self, original: Any, means: Means) -> None:
        self.original = original
        self.means = means
        self._text: Tensor | None = None
        self._text_key: Tensor | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """The original processor's output for the same arguments."""
        self._record(attn, hidden_states, encoder_hidden_states, attention_mask)
        output: Tensor = self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        return output

    @torch.no_grad()
    def _record(self, attn: Attention, hidden: Tensor, text: Tensor | None, mask: Tensor | None) -> None:
        means, rows = self.means, self.means.conditional
        if text is None and hidden.shape[1] > means.largest:
            return
        query = _split_heads(attn.to_q(hidden[rows]), attn.heads)
        bias = None if mask is None else mask[rows].float()
        if text is None:
            key = _split_heads(attn.to_k(hidden[rows]) * attn.scale, attn.heads)
            means.add("self", query, key, bias, None)
        else:
            means.add("cross", query, self._key_of(attn, text), bias, means.weights)

    def _key_of(self, attn: Attention, text: Tensor) -> Tensor:
        """The prompts' keys: the same at every step, so projected once for as long as the text is the same tensor."""
        if text is not self._text or self._text_key is None:
            self._text = text
            self._text_key = _split_heads(attn.to_k(text[self.means.conditional]) * attn.scale, attn.heads)
        return self._text_key


def grid(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a layer with so many positions, in a U-Net that halves latents of `size`, rounding up."""
    height, width = size
    while height * width > positions:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != positions:
        raise ValueError(f"an attention layer has {positions} positions, which latents of {size} never halve to")
    return height, width


def _split_heads(projected: Tensor, heads: int) -> Tensor:
    images, positions, _ = projected.shape
    return projected.view(images, positions, heads, -1).transpose(1, 2)


def _blocks(images: int, heads: int, scores: int) -> Iterator[tuple[slice, slice]]:
    """Images and heads to take at once so that at most `BLOCK` probabilities exist, `scores` of them a head."""
    some_heads = max(1, min(heads, BLOCK // scores))
    some_images = max(1, BLOCK // (heads * scores)) if some_heads == heads else 1
    for image in range(0, images, some_images):
        for head in range(0, heads, some_heads):
            yield slice(image, image + some_images), slice(head, head + some_heads)
