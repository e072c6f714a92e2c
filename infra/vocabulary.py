"""The vocabulary: which classes there are, by which words prompts call them, and how prompts are
worded.

A JSON file, read once and frozen. What would spoil labels is refused here: a word that two classes
share, or a class word inside another text of the vocabulary, where its attention could not be told
from the object's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from infra.parsing import parse_json
from infra.sources import nearest
from infra.text import UNSEEN

__all__ = [
    "Background",
    "ClassEntry",
    "Vocabulary",
    "VocabularyError",
    "has_word",
    "load_vocabulary",
]

# Shipped vocabularies; the drawn world's is beside the code that draws it, read by path as infra
# imports no models.
_WORLD = Path(__file__).parents[1] / "models" / "embedded" / "data" / "world.json"
_SHIPPED = {"world": _WORLD} | {
    file.stem: file for file in sorted((Path(__file__).parent / "vocabularies").iterdir())
}
_LONGEST = 200  # characters of a word or template: a prompt has 77 tokens


def _seen(text: str) -> str:
    if found := UNSEEN.search(text):
        raise ValueError(f"it holds {found[0]!a}, which cannot be seen; take it out")
    return text


# A word or phrase of a prompt: no braces, commas or line breaks, no space at either end.
Words = Annotated[
    str, Field(pattern=r"^[^\s,{}]+( [^\s,{}]+)*$", max_length=_LONGEST), AfterValidator(_seen)
]
Line = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_seen)]
Byte = Annotated[int, Field(ge=0, le=255)]


class VocabularyError(ValueError):
    """The vocabulary cannot be used; the message names the file, the entry and the remedy."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Seeds(_Entry):
    """Where the attention of a class is looked through for sure object and sure ground, as
    `models.masks.SeedRule`.
    """

    window: tuple[float, float]
    least: float = Field(ge=0, le=1)
    strict: float
    permissive: float


class ClassEntry(_Entry):
    """One class: `id` is its value in label maps, `synonyms` the words for one of it, `plurals`
    those for several.

    `subclasses` are words before the noun with their weights, "" the noun alone, as in DiffuMask's
    "golden retriever" dogs; `scenes` names the backgrounds it is found on, none meaning all; no
    prompt that names it holds a word of `avoid`, nor a class that is called so. `resolutions` of
    attention count alone for it, where the generator has them, and `seeds` are its own: what
    differs from DiffuMask's usual figures.
    """

    id: int = Field(ge=1, le=254)  # 0 is background, 255 is ignored
    name: Words
    synonyms: tuple[Words, ...] = Field(default=(), validate_default=True)  # none: the name
    plurals: tuple[Words, ...] = ()  # none: prompts never ask for several
    adjectives: tuple[Words, ...] = Field(
        default=(), validation_alias=AliasChoices("adjectives", "colours")
    )
    subclasses: dict[Words | Literal[""], Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict
    )
    scenes: tuple[Words, ...] = ()
    avoid: tuple[Words, ...] = ()
    resolutions: tuple[int, ...] = ()
    seeds: Seeds | None = None
    palette: tuple[Byte, Byte, Byte] | None = None

    @field_validator("synonyms")
    @classmethod
    def _called_by_its_name(cls, synonyms: tuple[str, ...], info: Any) -> tuple[str, ...]:
        return synonyms or (info.data.get("name", ""),)

    @model_validator(mode="after")
    def _a_plural_each(self) -> ClassEntry:
        if self.plurals and len(self.plurals) != len(self.synonyms):
            raise ValueError(
                f"{len(self.plurals)} plurals for {len(self.synonyms)} synonyms; give one each or none"
            )
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """Every word or phrase that stands for the class in a prompt."""
        return tuple(dict.fromkeys((*self.synonyms, *self.plurals)))


class Background(_Entry):
    """A background, and the phrases that follow `on` in a prompt."""

    name: Words
    synonyms: tuple[Words, ...] = Field(default=(), validate_default=True)

    @field_validator("synonyms")
    @classmethod
    def _called_by_its_name(cls, synonyms: tuple[str, ...], info: Any) -> tuple[str, ...]:
        return synonyms or (info.data.get("name", ""),)


class Vocabulary(_Entry):
    """Classes, backgrounds and the wording of prompts;

    `counts` are "a" (one) and number words for several.
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
    def _templates_have_both_places(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if sorted(re.findall("{[^{}]*}|[{}]", template)) != ["{background}", "{objects}"]:
                raise ValueError(
                    f"template {template!r} needs {{objects}} and {{background}} once each, nothing else"
                )
        return templates

    @model_validator(mode="after")
    def _nothing_is_ambiguous(self) -> Vocabulary:
        problems = [*self._duplicates(), *self._hidden_words(), *self._places()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _duplicates(self) -> Iterator[str]:
        for what, values in (
            ("class id", [str(c.id) for c in self.classes]),
            ("class name", [c.name.lower() for c in self.classes]),
            ("background name", [b.name.lower() for b in self.backgrounds]),
            (
                "class word",
                [w for c in self.classes for w in {word.lower() for word in (c.name, *c.words)}],
            ),
        ):
            for value, times in Counter(values).items():
                if times > 1:
                    yield f"{what} {value!r} is used {times} times; keep one"

    def _hidden_words(self) -> Iterator[str]:
        """Class words inside other texts: their attention would be read as the object's."""
        common = [
            *self.sizes,
            *self.counts,
            *self.templates,
            *(s for b in self.backgrounds for s in b.synonyms),
        ]
        for entry in self.classes:
            others = [word for other in self.classes if other is not entry for word in other.words]
            adjectives = [
                word for other in self.classes for word in (*other.adjectives, *other.subclasses)
            ]
            for text in dict.fromkeys((*common, *others, *adjectives)):
                yield from (
                    f"class word {w!r} stands in {text!r}; reword it"
                    for w in entry.words
                    if has_word(text, w)
                )

    def _places(self) -> Iterator[str]:
        """Scenes that there are not, and classes that no prompt can name."""
        known = [background.name for background in self.backgrounds]
        for entry in self.classes:
            for scene in entry.scenes:
                if scene not in known:
                    yield f"scene {scene!r} of class {entry.name!r} is no background; {nearest(scene, known)}"
            texts = [*entry.words, *(s for b in self.grounds([entry]) for s in b.synonyms)]
            yield from (
                f"class {entry.name!r} avoids {word!r}, which stands in {text!r}; drop one of them"
                for word in entry.avoid
                for text in texts
                if has_word(text, word)
            )

    def grounds(self, entries: Iterable[ClassEntry]) -> tuple[Background, ...]:
        """The backgrounds on which all of these classes are found."""
        places = [set(entry.scenes) for entry in entries if entry.scenes]
        return tuple(b for b in self.backgrounds if all(b.name in scenes for scenes in places))

    @cached_property
    def found_on(self) -> NDArray[np.bool_]:
        """On which backgrounds each class is found, (classes, backgrounds)."""
        return np.array(
            [[b in self.grounds([entry]) for b in self.backgrounds] for entry in self.classes]
        )

    @cached_property
    def apart(self) -> NDArray[np.bool_]:
        """Which classes no prompt names together, (classes, classes): one avoids the other's words,
        or they are one.
        """
        shuns = [
            [any(has_word(w, x) for w in b.words for x in a.avoid) for b in self.classes]
            for a in self.classes
        ]
        return np.asarray(
            np.array(shuns) | np.array(shuns).T | np.eye(len(self.classes), dtype=np.bool_)
        )

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
        """Hex digest of the content, whatever its file's name and layout."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def choose(self, names: Sequence[str] | None, *, field: str = "classes") -> Vocabulary:
        """Only these classes, ids and order kept;

        None keeps all. Raises `VocabularyError` for an unknown name.
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
        called = {word.lower(): entry.name for entry in self.classes for word in entry.words}
        return (
            f"did you mean {called[name.lower()]!r}?"
            if name.lower() in called
            else nearest(name, self.names)
        )


def has_word(text: str, word: str) -> bool:
    """Whether `word` (or phrase) stands in `text` as whole words, whatever their case."""
    return _whole(word).search(text) is not None


@cache
def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def load_vocabulary(name_or_path: str) -> Vocabulary:
    """The shipped vocabulary of that name, or the one in that JSON file.

    Raises `VocabularyError`.
    """
    path = _SHIPPED.get(name_or_path, Path(name_or_path))
    try:
        if UNSEEN.search(name_or_path):
            raise OSError(errno.EINVAL, "the name has characters that cannot be seen")
        data = path.read_bytes()
    except OSError as error:
        known = ", ".join(_SHIPPED)
        raise VocabularyError(
            f"cannot read vocabulary {name_or_path!r} ({error.strerror}); give a JSON file or one of: {known}"
        ) from None
    try:
        return Vocabulary.model_validate(parse_json(data))
    except ValidationError as error:
        raise VocabularyError("\n".join(_explain(error, path))) from None
    except ValueError as error:
        raise VocabularyError(
            f"vocabulary {path} is not JSON: {error}; save it as JSON in UTF-8"
        ) from None


def _explain(error: ValidationError, path: Path) -> Iterable[str]:
    for line in error.errors(include_url=False):
        *parents, last = line["loc"] or ("",)
        field = ".".join(map(str, line["loc"]))
        if line["type"] == "extra_forbidden":
            entries: dict[str, type[BaseModel]] = {"classes": ClassEntry, "backgrounds": Background}
            model = entries.get(str(next(iter(parents), "")), Vocabulary)
            yield f"vocabulary {path}: unknown field {field!r}; {nearest(str(last), model.model_fields)}"
        else:
            value = (
                ""
                if isinstance(line["input"], (dict, list)) or not field
                else f" = {line['input']!r}"
            )
            yield f"vocabulary {path}: {field}{value}: {line['msg'].removeprefix('Value error, ')}".replace(
                ": :", ":"
            )
