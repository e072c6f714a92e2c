"""Composed rows of the plan: which generated rows each scene is made of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infra.vocabulary import Vocabulary
from tasks.plan.prompts import Ints, PlanError, Row, distinct_classes, random_numbers, word_composed

__all__ = ["Material"]


class Material:
    """What scenes are made of: generated rows of one class, and those of none."""

    def __init__(self, chosen: Ints, vocabulary: Vocabulary) -> None:
        """`chosen` are the class indices that `choose_classes` returns."""
        single = chosen[:, 1] < 0
        numbers = range(len(vocabulary.classes))
        self._vocabulary = vocabulary
        self._objects = [np.flatnonzero(single & (chosen[:, 0] == number)) for number in numbers]
        self._backgrounds = np.flatnonzero((chosen < 0).all(1))
        # Worded rows of no class. There may be millions, so equal ones share one object.
        self._worded: list[Row] = []
        self._known: dict[str, Row] = {}
        self._suitable: dict[frozenset[str], Ints] = {}

    def collect(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The generated rows, unchanged. `scenes` needs all of them to be yielded first."""
        for row in rows:
            if not row.classes:
                self._worded.append(self._known.setdefault(f"{row.background}\n{row.prompt}", row))
            yield row

    def check(self, count: int) -> None:
        """Raise `PlanError` if `count` scenes cannot be made."""
        if count and not len(self._backgrounds):
            raise PlanError(
                f"compose.images is {count}, but no row has a background only, which scenes need; "
                f"raise plan.negatives, give label maps without objects, or set compose.images to 0"
            )

    def scenes(self, rng: np.random.Generator, count: int) -> Iterator[Row]:
        """Scenes: objects of two or three single rows on the image of a negative row."""
        available = np.array([float(len(rows) > 0) for rows in self._objects])
        classes_of = distinct_classes(rng, count, available, self._vocabulary)
        for classes, draws in random_numbers(rng, classes_of):
            entries = [self._vocabulary.classes[index] for index in classes]
            names = frozenset(
                background.name for background in self._vocabulary.backgrounds_of(entries)
            )
            background = _drawn(self._suitable_for(names), draws)
            objects = [_drawn(self._objects[index], draws) for index in classes]
            sources = [int(self._backgrounds[background]), *objects]
            yield word_composed(self._vocabulary, entries, self._worded[background], sources)

    def _suitable_for(self, names: frozenset[str]) -> Ints:
        """Indices of the rows of no class that show one of these backgrounds; all if none does."""
        if names not in self._suitable:
            found = np.flatnonzero([row.background in names for row in self._worded])
            self._suitable[names] = found if len(found) else np.arange(len(self._worded))
        return self._suitable[names]


def _drawn(rows: Ints, draws: Iterator[float]) -> int:
    """`pick` for an array; a list of millions of numbers would take ten times the memory."""
    return int(rows[int(next(draws) * len(rows))])
