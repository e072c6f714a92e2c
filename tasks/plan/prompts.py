"""Prompts: which classes each row names, and its wording.

An example is "a small red car and two trees on the beach". The drawn world describes its scenes in
the same way and with the same frequencies, since the embedded model was trained on it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.settings import PlanSettings
from infra.vocabulary import Background, ClassEntry, Vocabulary
from tasks.plan.lots import THREE, Lot, Lots, share_of_three

__all__ = [
    "Ints",
    "PlanError",
    "Row",
    "choose_classes",
    "distinct_classes",
    "pick",
    "random_numbers",
    "row_seed",
    "word_composed",
    "word_rows",
]

Ints = NDArray[np.signedinteger[Any]]
T = TypeVar("T")

MOST_CLASSES = 3  # that one prompt names
MOST_DRAWS = 3 + 8 * MOST_CLASSES  # random numbers that the wording of one row can take
# Probability that a phrase has a size, has an adjective, and is plural: those of the drawn world.
SIZE = 0.25
ADJECTIVE = 0.6
SEVERAL = 0.1


class PlanError(ValueError):
    """These settings and this vocabulary make no sound plan; the message names the remedy."""


def row_seed(run_seed: int, row: int) -> int:
    """Seed of a row, 63 bits; it depends on the run's seed and the row's number alone."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{row}".encode()).digest()[:8], "big") >> 1


class Row(NamedTuple):
    """One sample in the plan, without its number, seed and shard."""

    kind: str
    prompt: str
    classes: list[str]
    phrases: list[str]
    background: str
    sources: list[int]


def choose_classes(
    rng: np.random.Generator,
    plan: PlanSettings,
    weights: NDArray[np.float64],
    vocabulary: Vocabulary,
) -> Ints:
    """Class indices (n, 3) of every generated row in their final, shuffled order; -1 for none."""
    negatives = round(plan.images * plan.negatives)
    multi = min(round(plan.images * plan.multi), plan.images - negatives)
    singles = plan.images - negatives - multi
    chosen = np.full((plan.images, MOST_CLASSES), -1, np.int16)  # small: there may be ten million
    chosen[:singles, 0] = np.repeat(np.arange(len(weights)), _apportion(singles, weights))
    three = share_of_three(plan)
    chosen[singles : singles + multi] = distinct_classes(rng, multi, weights, vocabulary, three)
    return rng.permutation(chosen)


def _apportion(total: int, weights: NDArray[np.float64]) -> Ints:
    """Whole numbers in proportion to `weights` with sum `total` (largest remainders)."""
    exact = weights * (total / math.fsum(weights))
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def distinct_classes(
    rng: np.random.Generator,
    rows: int,
    weights: NDArray[np.float64],
    vocabulary: Vocabulary,
    three: float = THREE,
) -> Ints:
    """Two or three different classes per row (rows, 3), drawn by weight one by one; -1 for none.

    `three` is the share of rows that have three. All classes of a row are found on one background,
    and none avoids another. Two classes that no third goes with stay two. Raises `PlanError` if no
    two classes go together.
    """
    found_on = vocabulary.found_on
    together = ~vocabulary.apart
    meets = together & (found_on @ found_on.T)
    paired = np.where((meets & (weights > 0)).any(1), weights, 0)
    if rows and not paired.any():
        raise PlanError(
            "prompts of several objects need two classes of weight above 0 that are found on one "
            "background; set plan.multi and compose.images to 0"
        )
    sizes = np.where(rng.random(rows) < three, 3, 2)
    chosen = np.full((rows, MOST_CLASSES), -1, np.int64)
    for start in range(0, rows, 65536):  # keeps (rows, classes) small
        block = chosen[start : start + 65536]
        left = np.tile(paired, (len(block), 1))
        backgrounds = np.ones((len(block), found_on.shape[1]), np.bool_)
        for slot in range(MOST_CLASSES):
            reach = left.cumsum(1)
            drawn = (reach > rng.random((len(block), 1)) * reach[:, -1:]).argmax(1)
            block[:, slot] = np.where(reach[:, -1] > 0, drawn, -1)
            backgrounds &= found_on[drawn]
            left *= together[drawn] & (backgrounds @ found_on.T)
    chosen[np.arange(MOST_CLASSES) >= sizes[:, None]] = -1
    return chosen


def random_numbers(
    rng: np.random.Generator, chosen: Ints
) -> Iterator[tuple[list[int], Iterator[float]]]:
    """Class indices of each row, with `MOST_DRAWS` random numbers in [0, 1)."""
    for start in range(0, len(chosen), 65536):
        block = chosen[start : start + 65536]
        uniform = rng.random((len(block), MOST_DRAWS))
        for classes, numbers in zip(block.tolist(), uniform.tolist(), strict=True):
            yield [index for index in classes if index >= 0], iter(numbers)


def word_rows(
    vocabulary: Vocabulary, numbers: Iterable[tuple[list[int], Iterator[float]]], lots: Lots
) -> Iterator[Row]:
    """Rows worded from class indices and random numbers, as `random_numbers` yields them."""

    @cache
    def found(*classes: int) -> tuple[Sequence[ClassEntry], Lot[Background]]:
        entries = [vocabulary.classes[index] for index in classes]
        return entries, lots.backgrounds(vocabulary.backgrounds_of(entries))

    for classes, draws in numbers:
        yield _word_row(vocabulary, *found(*classes), lots, draws)


def _word_row(
    vocabulary: Vocabulary,
    entries: Sequence[ClassEntry],
    backgrounds: Lot[Background],
    lots: Lots,
    draws: Iterator[float],
) -> Row:
    background = backgrounds.draw(draws)
    name = pick(background.synonyms, draws)
    if not entries:
        return Row("negative", name, [], [], background.name, [])
    template = pick(vocabulary.templates, draws)
    several = len(entries) > 1
    determiners, phrases = zip(
        *(_noun_phrase(vocabulary, lots, each, several, draws) for each in entries), strict=True
    )
    objects = _enumerated([" ".join(pair) for pair in zip(determiners, phrases, strict=True)])
    kind = "single" if len(entries) == 1 else "multi"
    names = [entry.name for entry in entries]
    prompt = template.format(objects=objects, background=name)
    return Row(kind, prompt, names, list(phrases), background.name, [])


def _noun_phrase(
    vocabulary: Vocabulary,
    lots: Lots,
    entry: ClassEntry,
    with_others: bool,
    draws: Iterator[float],
) -> tuple[str, str]:
    """Determiner and phrase of one class, such as "two" and "small red cars"."""
    several = with_others and entry.plurals and len(vocabulary.counts) > 1 and next(draws) < SEVERAL
    words = [lots.sizes.draw(draws)] if lots.sizes and next(draws) < SIZE else []
    words += [pick(entry.adjectives, draws)] if entry.adjectives and next(draws) < ADJECTIVE else []
    words += [lots.subclasses[entry.name].draw(draws)] if entry.subclasses else []
    words.append(pick(entry.plurals if several else entry.synonyms, draws))
    phrase = " ".join(word for word in words if word)
    return pick(vocabulary.counts[1:], draws) if several else _article(phrase), phrase


def _article(word: str) -> str:
    return "an" if word[0].lower() in "aeiou" else "a"


def _enumerated(phrases: Sequence[str]) -> str:
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}" if len(phrases) > 1 else phrases[0]


def pick(options: Sequence[T], draws: Iterator[float]) -> T:
    """An option drawn evenly with the next number of `draws`."""
    return options[int(next(draws) * len(options))]


def word_composed(
    vocabulary: Vocabulary, entries: Sequence[ClassEntry], background: Row, sources: list[int]
) -> Row:
    """The row of a scene: objects cut from the rows `sources`, on the image of `background`."""
    nouns = [entry.synonyms[0] for entry in entries]
    objects = _enumerated([f"{_article(noun)} {noun}" for noun in nouns])
    prompt = vocabulary.templates[0].format(objects=objects, background=background.prompt)
    names = [entry.name for entry in entries]
    return Row("composed", prompt, names, nouns, background.background, sources)
