"""The vocabulary: the classes, the words that prompts use for them, and the wording of prompts.

A vocabulary is a JSON file, read once and frozen. It is refused if it would spoil labels: if two
classes share a word, or if a class word is part of another text of the vocabulary, whose attention
would be taken for the object's.
"""

from __future__ import annotations

from infra.vocabulary.entries import Background, ClassEntry, Seeds, VocabularyError
from infra.vocabulary.loading import load_vocabulary
from infra.vocabulary.vocabulary import Vocabulary
from infra.vocabulary.words import has_word

__all__ = [
    "Background",
    "ClassEntry",
    "Seeds",
    "Vocabulary",
    "VocabularyError",
    "has_word",
    "load_vocabulary",
]
