"""Text from outside made safe to show. Class names, prompts and file names are not trusted."""

from __future__ import annotations

import re

__all__ = ["UNSEEN", "as_markdown", "visible"]

# Control characters move the cursor, ring the bell, colour and retitle a terminal. Direction marks
# (Unicode's Bidi_Control) make a text look different from what it is.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# ASCII's punctuation; CommonMark lets a backslash escape each of these characters
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def visible(text: str) -> str:
    """Return `text` with invisible characters as escapes; line breaks and tabs stay."""
    return UNSEEN.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


def as_markdown(text: str) -> str:
    """Return Markdown that shows `text` literally: no link, image, HTML, table cell or new line."""
    return _PUNCTUATION.sub(r"\\\1", UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text))
