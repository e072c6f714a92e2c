"""Words of prompts: which texts a vocabulary may hold, and how a word is found in a text."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated

from pydantic import AfterValidator, Field

from infra.text import UNSEEN

__all__ = ["Line", "Words", "has_word"]

_LONGEST = 200  # characters of a word or template: a prompt has 77 tokens


def _visible(text: str) -> str:
    if found := UNSEEN.search(text):
        raise ValueError(f"it holds {found[0]!a}, which cannot be seen; take it out")
    return text


# A word or phrase of a prompt: no braces, commas or line breaks, no space at either end.
Words = Annotated[
    str, Field(pattern=r"^[^\s,{}]+( [^\s,{}]+)*$", max_length=_LONGEST), AfterValidator(_visible)
]
Line = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_visible)]


def has_word(text: str, word: str) -> bool:
    """Whether `text` contains `word` (or a phrase) as whole words, in any case."""
    return _whole(word).search(text) is not None


@cache
def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
