"""Entries of a vocabulary: classes and backgrounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.vocabulary.words import Words

__all__ = ["Background", "ClassEntry", "Entry", "Seeds", "VocabularyError"]

Byte = Annotated[int, Field(ge=0, le=255)]


class VocabularyError(ValueError):
    """The vocabulary cannot be used. The message names the file, the entry and the remedy."""


class Entry(BaseModel):
    """Base class of all parts of a vocabulary: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Seeds(Entry):
    """Attention thresholds of a class's certain object and certain background pixels.

    The fields are those of `models.masks.SeedRule`.
    """

    window: tuple[float, float]
    least: float = Field(ge=0, le=1)
    strict: float
    permissive: float


class ClassEntry(Entry):
    """One class.

    | field | meaning |
    |---|---|
    | `id` | value in label maps |
    | `synonyms`, `plurals` | words for one object, and for several |
    | `subclasses` | words before the noun with their weights, "" for none, as in DiffuMask's \
"golden retriever" dogs |
    | `scenes` | names of the backgrounds it occurs on; none means all |
    | `avoid` | words, also names of classes, that no prompt with this class contains |
    | `resolutions` | sizes of attention maps that count for it, where the generator has them |
    | `seeds` | thresholds that differ from DiffuMask's |
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
    def _name_is_the_default(cls, synonyms: tuple[str, ...], info: Any) -> tuple[str, ...]:
        return synonyms or (info.data.get("name", ""),)

    @model_validator(mode="after")
    def _one_plural_per_synonym(self) -> ClassEntry:
        if self.plurals and len(self.plurals) != len(self.synonyms):
            raise ValueError(
                f"{len(self.plurals)} plurals for {len(self.synonyms)} synonyms; "
                "give one per synonym, or none"
            )
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """All words and phrases that name the class in a prompt."""
        return tuple(dict.fromkeys((*self.synonyms, *self.plurals)))


class Background(Entry):
    """A background, with the phrases that follow `on` in a prompt."""

    name: Words
    synonyms: tuple[Words, ...] = Field(default=(), validate_default=True)

    @field_validator("synonyms")
    @classmethod
    def _name_is_the_default(cls, synonyms: tuple[str, ...], info: Any) -> tuple[str, ...]:
        return synonyms or (info.data.get("name", ""),)
