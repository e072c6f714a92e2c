"""Captions: prompts from the user's text file, one per line, filtered by DiffuMask's rules.

DiffuMask's released code gets captions of photographs from a search service that no longer exists;
the file replaces it. The rules are those of that code: a caption names one class, names it early,
is not long, and has no word about drawings, blur or details.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from infra.text import UNSEEN
from infra.vocabulary import ClassEntry, Vocabulary, has_word
from tasks.plan.prompts import PlanError, Row
from tasks.plan.tokens import TokenCounter

__all__ = ["Captions", "read_captions", "sort_captions", "with_captions"]

EARLY = 5  # first words of a caption, one of which has to be the class
LONGEST = 50  # words
UNWANTED = (
    "vector",
    "stock",
    "3d",
    "-",
    "blur",
    "blurred",
    "shot",
    "close-up",
    "headlight",
    "headlights",
    "defocused",
    "cartoon",
    "interior",
    "internal",
)
PREFIX = "photo of "


@dataclass(frozen=True)
class Captions:
    """Prompts by class name, each with its word for the class; rejected lines counted by reason."""

    prompts: dict[str, list[tuple[str, str]]]
    rejected: dict[str, int] = field(default_factory=dict)


def read_captions(path: str) -> list[str]:
    """The different non-empty lines of a UTF-8 text file, with single spaces.

    Raises `PlanError` for a file that cannot be read or has no such line.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:  # no UTF-8, or no path
        raise PlanError(
            f"cannot read plan.captions {path!r} ({error}); give a UTF-8 text with one caption "
            f"per line"
        ) from None
    single_spaced = (" ".join(line.split()) for line in text.splitlines())
    lines = list(dict.fromkeys(line for line in single_spaced if line))
    if not lines:
        raise PlanError(
            f"plan.captions {path!r} holds no caption; write one per line, or leave the field out"
        )
    return lines


def sort_captions(
    lines: Iterable[str],
    vocabulary: Vocabulary,
    count_tokens: TokenCounter | None = None,
    max_tokens: int = 0,
) -> Captions:
    """Sort `lines` into prompts by class and rejected ones.

    A prompt with more than `max_tokens` tokens, as `count_tokens` counts them, is rejected.
    """
    prompts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    rejected: Counter[str] = Counter()
    for line in lines:
        prompt = PREFIX + line
        named = list(_named(line, vocabulary))
        reason = _fault(line, named)
        if not reason and count_tokens and count_tokens([prompt])[0] > max_tokens:
            reason = "longer than the generator's tokenizer takes"
        if reason:
            rejected[reason] += 1
        else:
            entry, word = named[0]
            prompts[entry.name].append((prompt, word))
    return Captions(dict(prompts), dict(rejected.most_common()))


def _named(line: str, vocabulary: Vocabulary) -> Iterator[tuple[ClassEntry, str]]:
    """The classes that a line names, each with its longest word in the line."""
    for entry in vocabulary.classes:
        if words := [word for word in entry.words if has_word(line, word)]:
            yield entry, max(words, key=len)


def _fault(line: str, named: list[tuple[ClassEntry, str]]) -> str:
    """Why a line that names these classes cannot be a prompt; "" if it can."""
    words = line.split()
    if UNSEEN.search(line):
        return "holds a character that cannot be seen"
    if not named:
        return "names no class"
    if len(named) > 1:
        return "names several classes"
    entry, word = named[0]
    if not has_word(" ".join(words[:EARLY]), word):
        return f"names its class after word {EARLY}"
    if len(words) > LONGEST:
        return f"longer than {LONGEST} words"
    spoken = {spoken.strip(".,;:!?()\"'").lower() for spoken in words}
    if spoken & set(UNWANTED) or any(has_word(line, avoided) for avoided in entry.avoid):
        return "holds a word that is unwanted"
    return ""


def with_captions(
    rows: Iterable[Row], captions: Captions, share: float, rng: np.random.Generator
) -> Iterator[Row]:
    """The rows, with captions as prompts of `share` of those of one class that has captions.

    The background of a row with a caption is unknown.
    """
    return (_captioned(row, captions, rng) if rng.random() < share else row for row in rows)


def _captioned(row: Row, captions: Captions, rng: np.random.Generator) -> Row:
    if row.kind != "single" or not (choice := captions.prompts.get(row.classes[0])):
        return row
    prompt, word = choice[int(rng.integers(len(choice)))]
    return row._replace(prompt=prompt, phrases=[word], background="")
