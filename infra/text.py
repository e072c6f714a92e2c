"""Text from outside, made safe to show: class names, prompts and file names are nobody's to trust."""

from __future__ import annotations

import re

__all__ = ["UNSEEN", "as_markdown", "visible"]

# Control characters move the cursor, ring, colour and retitle a terminal; marks of direction
# (Unicode's Bidi_Control) show other words than there are.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PUNCTUATION = re.compile(
    r"([!-/:-@\[-`{-~])"
)  # ASCII's, all of which CommonMark lets a backslash take the meaning of


def visible(text: str) -> str:
    """`text` with what cannot be seen written as its escape, line breaks and tabs left as they are."""
    return UNSEEN.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


def as_markdown(text: str) -> str:
    """`text` as Markdown that shows it and does nothing else: no link, picture, HTML, table cell or
    line of its own.
    """
    return _PUNCTUATION.sub(r"\\\1", UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text))
