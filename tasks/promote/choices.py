"""Choices: what the plan chose for a row, and the next plan can choose more or less often.

| kind | name |
|---|---|
| classes | a class that the prompt names |
| backgrounds | the background of the prompt |
| counts | "two" or "three", for the classes that the prompt names |
| sizes | a word of size |
| subclasses | a word of a sub-class, "" for none; `of` is its class |

A row with a caption for a prompt has its class only, since nothing else of it was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from infra.vocabulary import ClassEntry, Vocabulary

__all__ = ["Choice", "choices_of"]

_COUNTS = {2: "two", 3: "three"}


class Choice(NamedTuple):
    """One option of a kind; `of` is the class of a sub-class."""

    kind: str
    name: str
    of: str = ""


def choices_of(row: Mapping[str, Any], vocabulary: Vocabulary | None) -> list[set[Choice]]:
    """Return the choices that concern each class of a row of the plan.

    Without the `vocabulary` that the row was worded from, sizes and sub-classes are left out.
    """
    common: set[Choice] = set()
    if row["background"]:
        common.add(Choice("backgrounds", row["background"]))
        if count := _COUNTS.get(len(row["classes"])):
            common.add(Choice("counts", count))
    found = [{Choice("classes", name), *common} for name in row["classes"]]
    if vocabulary and row["background"]:
        entries = {entry.name: entry for entry in vocabulary.classes}
        for choices, name, phrase in zip(found, row["classes"], row["phrases"], strict=False):
            if entry := entries.get(name):
                choices.update(_worded(phrase, entry, vocabulary.sizes))
    return found


def _worded(phrase: str, entry: ClassEntry, sizes: Iterable[str]) -> Iterator[Choice]:
    """Yield the choices in a noun phrase: size, adjective, sub-class and noun, as plans word it."""
    if size := _longest(word for word in sizes if phrase.startswith(f"{word} ")):
        yield Choice("sizes", size)
    noun = _longest(word for word in entry.words if f" {phrase}".endswith(f" {word}"))
    described = f" {phrase.removesuffix(noun).rstrip()}"
    subclass = _longest(word for word in entry.subclasses if described.endswith(f" {word}"))
    if subclass or "" in entry.subclasses:
        yield Choice("subclasses", subclass, entry.name)


def _longest(words: Iterable[str]) -> str:
    return max(words, key=len, default="")
