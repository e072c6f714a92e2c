"""Drawn rows of the plan: images of label maps, which have no prompt."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from infra.settings import PlanSettings
from tasks.plan.prompts import Ints, PlanError, Row, row_seed

if TYPE_CHECKING:  # it loads torch, which a plan of prompts does without
    from tasks.maps.layouts import Layouts

__all__ = ["DrawnRows"]

_READERS = 16  # label maps that are read at once; from a bucket each takes a round trip


class DrawnRows:
    """A row per image: the numbers of its label maps as `sources`, and the classes it shows.

    The label map of every row is made once, to know its classes. Raises what `Layouts` raises, and
    `PlanError` if not a single composed layout gets an object.
    """

    def __init__(self, layouts: Layouts, plan: PlanSettings, run_seed: int) -> None:
        self._plan = plan
        different = plan.images if layouts.composed else min(plan.images, len(layouts))

        def made(row: int) -> tuple[list[int], list[str]]:
            seed = row_seed(run_seed, row)
            numbers = layouts.numbers(row, seed)
            return numbers, layouts.classes(layouts.make(numbers, seed).label)

        with ThreadPoolExecutor(_READERS) as pool:
            self._made = list(pool.map(made, range(different)))
        if layouts.composed and all(len(numbers) == 1 for numbers, _ in self._made):
            raise PlanError(
                "generator.layouts is 'composed', but no label map has an object that can be cut "
                "out: one of 1 to 60 % of the map, away from its border and from other classes; "
                "set generator.layouts to 'given'"
            )

    def chosen(self, names: tuple[str, ...]) -> Ints:
        """Return the indices in `names` of each row's first two classes (n, 2), -1 for none."""
        indices = {name: index for index, name in enumerate(names)}
        first = np.full((len(self._made), 2), -1, np.int64)
        for row, (_, shown) in enumerate(self._made):
            first[row, : len(shown[:2])] = [indices[name] for name in shown[:2]]
        return first[np.arange(self._plan.images) % len(first)]

    def __iter__(self) -> Iterator[Row]:
        for number in range(self._plan.images):
            sources, shown = self._made[number % len(self._made)]
            kind = ("negative", "single", "multi")[min(len(shown), 2)]
            yield Row(kind, "", shown, [], "", sources)
