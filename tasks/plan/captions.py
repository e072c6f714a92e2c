"""Captions: prompts from a text file of the user's, one caption a line, under DiffuMask's rules of
which to keep.

The released code asks a search service that is gone for captions of photographs; a file of one's
own takes its place. The rules are that code's: the class stands early, the caption is of one class
and not long, and no word speaks of drawings, blur or details.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from infra.text import UNSEEN
from infra.vocabulary import ClassEntry, Vocabulary, has_word
from tasks.plan.prompts import PlanError, Row

__all__ = ["Captions", "read_captions", "sort_captions", "with_captions"]

EARLY = 5  # words, among which the class has to stand
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

TokenCounter = Callable[[list[str]], Sequence[int]]


@dataclass(frozen=True)
class Captions:
    """Prompts and the words in them that mean their class, by class name; and how many lines were
    left out, by why.
    """

    prompts: dict[str, list[tuple[str, str]]]
    rejected: dict[str, int] = field(default_factory=dict)


def read_captions(path: str) -> list[str]:
    """The lines of a UTF-8 text file that hold anything, spaces made single; each once.

    Raises `PlanError`.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:  # no UTF-8, or no path
        raise PlanError(
            f"cannot read plan.captions {path!r} ({error}); give a UTF-8 text of one caption a line"
        ) from None
    lines = list(
        dict.fromkeys(line for line in (" ".join(raw.split()) for raw in text.splitlines()) if line)
    )
    if not lines:
        raise PlanError(
            f"plan.captions {path!r} holds no caption; give one a line, or leave the field out"
        )
    return lines


def sort_captions(
    lines: Iterable[str],
    vocabulary: Vocabulary,
    count_tokens: TokenCounter | None = None,
    max_tokens: int = 0,
) -> Captions:
    """Which of `lines` may be prompts, for which class; those over `max_tokens` by `count_tokens`
    may not.
    """
    prompts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    rejected: Counter[str] = Counter()
    for line in lines:
        prompt, named = PREFIX + line, list(_named(line, vocabulary))
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
    """The classes that a line names, each with its longest word there."""
    for entry in vocabulary.classes:
        if words := [word for word in entry.words if has_word(line, word)]:
            yield entry, max(words, key=len)


def _fault(line: str, named: list[tuple[ClassEntry, str]]) -> str:
    """Why a line that names these classes is no prompt; "" if it is."""
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
    """The rows, of which `share` of those of one class with captions have one for their prompt; no
    ground is known.
    """
    return (_captioned(row, captions, rng) if rng.random() < share else row for row in rows)


def _captioned(row: Row, captions: Captions, rng: np.random.Generator) -> Row:
    if row.kind != "single" or not (choice := captions.prompts.get(row.classes[0])):
        return row
    prompt, word = choice[int(rng.integers(len(choice)))]
    return row._replace(prompt=prompt, phrases=[word], background="")
