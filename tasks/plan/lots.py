"""Lots: what the wording of a prompt is drawn from, evenly or by the plan's weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from infra.explain import nearest
from infra.settings import PlanSettings
from infra.vocabulary import Background, Vocabulary, VocabularyError

__all__ = ["THREE", "Lot", "Lots", "share_of_three"]

T = TypeVar("T")

THREE = 0.3  # share of prompts with several objects that name three classes


@dataclass(frozen=True)
class Lot(Generic[T]):
    """Options, of which each is drawn in proportion to its weight above 0."""

    options: Sequence[T]
    ends: Sequence[float]  # running sums of the weights

    @classmethod
    def of(cls, options: Iterable[tuple[T, float]]) -> Lot[T]:
        """Return the lot of these options with their weights."""
        names, weights = zip(*options, strict=True)
        return cls(names, list(accumulate(weights)))

    def draw(self, numbers: Iterator[float]) -> T:
        """Return the option that the next number in [0, 1) stands for."""
        return self.options[bisect_right(self.ends, next(numbers) * self.ends[-1])]


class Lots:
    """The lots of a vocabulary and a plan's weights; an option without a weight has weight 1.

    `sizes` is None for a vocabulary without words of size. `subclasses` is by class name, for the
    classes that have any; a word's weight multiplies that of the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, plan: PlanSettings | None = None) -> None:
        """Raises `VocabularyError` for the weight of a word that the vocabulary lacks."""
        plan = plan or PlanSettings()
        sizes, subclasses = plan.sizes or {}, plan.subclasses or {}
        self._backgrounds = plan.backgrounds or {}
        _check("plan.backgrounds", self._backgrounds, [b.name for b in vocabulary.backgrounds])
        _check("plan.sizes", sizes, vocabulary.sizes)
        _check("plan.subclasses", subclasses, vocabulary.names)
        for entry in vocabulary.classes:
            field = f"plan.subclasses.{entry.name}"
            _check(field, subclasses.get(entry.name, {}), list(entry.subclasses))
        words = [(word, sizes.get(word, 1.0)) for word in vocabulary.sizes]
        self.sizes = Lot.of(words) if words else None
        self.subclasses = {
            entry.name: Lot.of(
                (word, weight * subclasses.get(entry.name, {}).get(word, 1.0))
                for word, weight in entry.subclasses.items()
            )
            for entry in vocabulary.classes
            if entry.subclasses
        }

    def backgrounds(self, options: Iterable[Background]) -> Lot[Background]:
        """Return the lot of these backgrounds."""
        return Lot.of((each, self._backgrounds.get(each.name, 1.0)) for each in options)


def _check(field: str, weights: Mapping[str, object], known: Sequence[str]) -> None:
    for name in weights:
        if name not in known:
            raise VocabularyError(f"unknown name {name!r} in {field}: {nearest(name, known)}")


def share_of_three(plan: PlanSettings) -> float:
    """Return the share of three classes among prompts of two or three, by the weights of both."""
    counts = plan.counts or {}
    three = THREE * counts.get("three", 1.0)
    two = (1 - THREE) * counts.get("two", 1.0)
    return three / (three + two) if counts else THREE
