"""Scenes: which generated rows the plan's composed rows are made of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infra.vocabulary import Vocabulary
from tasks.plan.prompts import Ints, PlanError, Row, distinct_classes, random_numbers, word_composed

__all__ = ["Material"]


class Material:
    """What scenes can be made of: the generated rows of one class, and those of none, as they were
    worded.
    """

    def __init__(self, chosen: Ints, vocabulary: Vocabulary) -> None:
        """`chosen` as `choose_classes` returns it."""
        single = chosen[:, 1] < 0
        numbers = range(len(vocabulary.classes))
        self._vocabulary = vocabulary
        self._objects = [np.flatnonzero(single & (chosen[:, 0] == number)) for number in numbers]
        self._grounds = np.flatnonzero((chosen < 0).all(1))
        self._worded: list[
            Row
        ] = []  # the rows of no class; equal ones are one object, for there may be millions
        self._known: dict[str, Row] = {}
        self._suitable: dict[frozenset[str], Ints] = {}

    def watching(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The generated rows, unchanged, all of which must have passed by before there are scenes."""
        for row in rows:
            if not row.classes:
                self._worded.append(self._known.setdefault(f"{row.background}\n{row.prompt}", row))
            yield row

    def check(self, count: int) -> None:
        """Raise `PlanError` if so many scenes cannot be."""
        if count and not len(self._grounds):
            raise PlanError(
                "compose.images needs rows with a background only; raise plan.negatives or set it to 0"
            )

    def scenes(self, rng: np.random.Generator, count: int) -> Iterator[Row]:
        """Scenes of two or three single rows' objects on a negative row's image."""
        available = np.array([float(len(rows) > 0) for rows in self._objects])
        classes_of = distinct_classes(rng, count, available, self._vocabulary)
        for classes, draws in random_numbers(rng, classes_of):
            entries = [self._vocabulary.classes[index] for index in classes]
            scenes = frozenset(background.name for background in self._vocabulary.grounds(entries))
            ground = _drawn(self._grounds_on(scenes), draws)
            sources = [
                int(self._grounds[ground]),
                *(_drawn(self._objects[index], draws) for index in classes),
            ]
            yield word_composed(self._vocabulary, entries, self._worded[ground], sources)

    def _grounds_on(self, scenes: frozenset[str]) -> Ints:
        """Which of the rows of no class show one of these backgrounds; all of them if none does."""
        if scenes not in self._suitable:
            found = np.flatnonzero([row.background in scenes for row in self._worded])
            self._suitable[scenes] = found if len(found) else np.arange(len(self._worded))
        return self._suitable[scenes]


def _drawn(rows: Ints, draws: Iterator[float]) -> int:
    """`pick` for an array, which a list of millions of numbers would be ten times as large as."""
    return int(rows[int(next(draws) * len(rows))])
