"""The vocabulary as a whole, and the checks that keep its words unambiguous."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from infra.explain import nearest
from infra.vocabulary.entries import Background, ClassEntry, Entry, VocabularyError
from infra.vocabulary.words import Line, Words, has_word

__all__ = ["Vocabulary"]


class Vocabulary(Entry):
    """Classes, backgrounds and the wording of prompts.

    `counts` are "a" for one object and number words for several.
    """

    name: Line
    classes: tuple[ClassEntry, ...] = Field(min_length=1)
    backgrounds: tuple[Background, ...] = Field(min_length=1)
    sizes: tuple[Words, ...] = ()
    counts: tuple[Words, ...] = Field(default=("a",), min_length=1)
    templates: tuple[Line, ...] = Field(
        default=("a photo of {objects} on {background}",), min_length=1
    )

    @field_validator("templates")
    @classmethod
    def _templates_have_both_fields(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if sorted(re.findall("{[^{}]*}|[{}]", template)) != ["{background}", "{objects}"]:
                raise ValueError(
                    f"template {template!r} needs {{objects}} and {{background}} once each, "
                    "nothing else"
                )
        return templates

    @model_validator(mode="after")
    def _nothing_is_ambiguous(self) -> Vocabulary:
        problems = [*self._duplicates(), *self._hidden_words(), *self._wrong_scenes()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _duplicates(self) -> Iterator[str]:
        spoken = [{word.lower() for word in (c.name, *c.words)} for c in self.classes]
        unique = {
            "class id": [str(c.id) for c in self.classes],
            "class name": [c.name.lower() for c in self.classes],
            "background name": [b.name.lower() for b in self.backgrounds],
            "class word": [word for words in spoken for word in words],
        }
        for what, values in unique.items():
            for value, times in Counter(values).items():
                if times > 1:
                    yield f"{what} {value!r} is used {times} times; keep one"

    def _hidden_words(self) -> Iterator[str]:
        """Yield class words inside other texts. Their attention would count as the object's."""
        spoken = [synonym for background in self.backgrounds for synonym in background.synonyms]
        common = [*self.sizes, *self.counts, *self.templates, *spoken]
        adjectives = [
            word for other in self.classes for word in (*other.adjectives, *other.subclasses)
        ]
        for entry in self.classes:
            others = [word for other in self.classes if other is not entry for word in other.words]
            for text in dict.fromkeys((*common, *others, *adjectives)):
                for word in entry.words:
                    if has_word(text, word):
                        yield f"class word {word!r} is part of {text!r}; reword it"

    def _wrong_scenes(self) -> Iterator[str]:
        """Yield unknown scenes, and avoided words in the texts of the class itself."""
        known = [background.name for background in self.backgrounds]
        for entry in self.classes:
            for scene in entry.scenes:
                if scene not in known:
                    remedy = nearest(scene, known)
                    yield f"scene {scene!r} of class {entry.name!r} is no background; {remedy}"
            spoken = [s for background in self.backgrounds_of([entry]) for s in background.synonyms]
            for word in entry.avoid:
                for text in (*entry.words, *spoken):
                    if has_word(text, word):
                        yield (
                            f"class {entry.name!r} avoids {word!r}, which is part of {text!r}; "
                            "drop one of them"
                        )

    def backgrounds_of(self, entries: Iterable[ClassEntry]) -> tuple[Background, ...]:
        """Return the backgrounds on which all of these classes occur."""
        allowed = [set(entry.scenes) for entry in entries if entry.scenes]
        return tuple(b for b in self.backgrounds if all(b.name in scenes for scenes in allowed))

    @cached_property
    def found_on(self) -> NDArray[np.bool_]:
        """Which classes occur on which backgrounds, (classes, backgrounds)."""
        return np.array(
            [
                [background in self.backgrounds_of([entry]) for background in self.backgrounds]
                for entry in self.classes
            ]
        )

    @cached_property
    def apart(self) -> NDArray[np.bool_]:
        """Which classes no prompt names together, (classes, classes).

        True on the diagonal, and where one class avoids a word of the other.
        """
        avoids = np.array(
            [
                [any(has_word(word, x) for word in b.words for x in a.avoid) for b in self.classes]
                for a in self.classes
            ]
        )
        return np.asarray(avoids | avoids.T | np.eye(len(self.classes), dtype=np.bool_))

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the vocabulary's order."""
        return tuple(entry.name for entry in self.classes)

    @property
    def ids(self) -> dict[str, int]:
        """Label value of each class name."""
        return {entry.name: entry.id for entry in self.classes}

    @property
    def sha256(self) -> str:
        """Hex digest of the content. Name and layout of the file do not change it."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def choose(self, names: Sequence[str] | None, *, field: str = "classes") -> Vocabulary:
        """Return the vocabulary with only these classes, ids and order kept; None keeps all.

        Raises `VocabularyError` for an unknown name. `field` is where the names come from.
        """
        if names is None:
            return self
        if not names:
            raise VocabularyError(
                f"{field} is empty; leave it out, or choose from {', '.join(self.names)}"
            )
        for name in names:
            if name not in self.names:
                raise VocabularyError(f"unknown class {name!r} in {field}: {self._suggest(name)}")
        return self.model_copy(
            update={"classes": tuple(c for c in self.classes if c.name in names)}
        )

    def _suggest(self, name: str) -> str:
        spoken = {word.lower(): entry.name for entry in self.classes for word in entry.words}
        found = spoken.get(name.lower())
        return nearest(name, self.names) if found is None else f"did you mean {found!r}?"
