"""Which tokens of a prompt belong to a word or phrase, by character offsets.

CLIP splits "aeroplane" into "aerop" and "lane", and puts punctuation and digits into tokens of
their own. Comparing decoded tokens with words, as DiffuMask and Dataset-Diffusion do, silently
misses such words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

__all__ = ["Spans", "locate_phrases"]

Span = tuple[int, int]  # first character, one past the last


@dataclass(frozen=True)
class Spans:
    """Tokenised prompts, and the weight of each token in each phrase.

    `ids`: (P, T) int64, padded as the pipeline pads. `weights`: (P, W, T) float32, W the most
    phrases of any prompt; a phrase's row holds 1/n at each of its n tokens, a row of padding is
    zero. `valid`: (P, W) bool, false at padding.
    """

    ids: Tensor
    weights: Tensor
    valid: Tensor


def locate_phrases(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], phrases: Sequence[Sequence[str]]
) -> Spans:
    """Find the tokens of each prompt's phrases: whole words, any case, all occurrences alike.

    "car" is not found in "carpet" nor in "cars". Any white space may separate a phrase's words.
    Raises `ValueError` if a prompt is longer than the tokenizer takes, if a phrase is not in its
    prompt, or if the two lists differ in length.
    """
    _check_lists(tokenizer, prompts, phrases)
    limit = tokenizer.model_max_length
    encoded = tokenizer(
        list(prompts), padding="max_length", max_length=limit, return_offsets_mapping=True
    )
    for prompt, mask in zip(prompts, encoded["attention_mask"], strict=True):
        if len(mask) > limit:
            raise ValueError(
                f"prompt {prompt!r} has {len(mask)} tokens and the text encoder takes {limit}: "
                "shorten it"
            )
    weights = torch.zeros(len(prompts), max(map(len, phrases), default=0), limit)
    for row, (prompt, wanted, offsets) in enumerate(
        zip(prompts, phrases, encoded["offset_mapping"], strict=True)
    ):
        for column, phrase in enumerate(wanted):
            tokens = _tokens_of(phrase, prompt, offsets)
            weights[row, column, tokens] = 1 / len(tokens)
    return Spans(torch.tensor(encoded["input_ids"]), weights, weights.any(dim=-1))


def _tokens_of(phrase: str, prompt: str, offsets: Sequence[Span]) -> list[int]:
    spans = _find(phrase, prompt)
    tokens = [
        i
        for i, (a, b) in enumerate(offsets)
        if any(a < stop and b > start for start, stop in spans)
    ]
    if not tokens:
        raise ValueError(
            f"{phrase!r} is not a word or phrase of the prompt {prompt!r}: "
            "name it as the prompt does"
        )
    return tokens


def _find(phrase: str, prompt: str) -> list[Span]:
    words = r"\s+".join(map(re.escape, phrase.split()))
    if not words:
        return []
    found = re.finditer(rf"(?<!\w){words}(?!\w)", prompt, re.IGNORECASE)
    return [match.span() for match in found]


def _check_lists(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], phrases: Sequence[Sequence[str]]
) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets: load the fast tokenizer"
        )
    if isinstance(prompts, str) or any(isinstance(wanted, str) for wanted in phrases):
        raise ValueError(
            "prompts is a list of strings, phrases a list of lists of strings, one per prompt"
        )
    if not prompts or len(prompts) != len(phrases):
        raise ValueError(
            f"{len(prompts)} prompts with {len(phrases)} lists of phrases: give one list per prompt"
        )
