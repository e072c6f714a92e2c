"""What a plan chose for its rows, read back from the plan."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from infra.settings import Settings
from tasks.plan.rows import make_plan
from tasks.promote.choices import Choice, choices_of


def chosen(vocabulary: str, **plan: Any) -> Counter[Choice]:
    """Return how often each choice was made in a plan of 2000 rows."""
    settings = Settings(seed=3, vocabulary=vocabulary, plan={"images": 2000, **plan})
    known = settings.load_vocabulary()
    found: Counter[Choice] = Counter()
    for row in make_plan(settings, known).to_dict("records"):
        per_class = choices_of(row, known)
        assert len(per_class) == len(row["classes"])
        for choices in per_class:
            found.update(choices)
    return found


@pytest.mark.parametrize("vocabulary", ["world", "voc"])
def test_a_choice_of_great_weight_is_read_from_most_rows(vocabulary: str) -> None:
    known = Settings(vocabulary=vocabulary).load_vocabulary()
    entry = next(each for each in known.classes if len(each.subclasses) > 1)
    word = list(entry.subclasses)[1]
    weights = {
        "backgrounds": {known.backgrounds[1].name: 50.0},
        "sizes": {known.sizes[1]: 50.0},
        "counts": {"three": 50.0},
        "subclasses": {entry.name: {word: 1000.0}},
    }
    found = chosen(vocabulary, multi=0.5, **weights)
    subclasses = [each for each in found if each.kind == "subclasses" and each.of == entry.name]
    assert max(subclasses, key=lambda each: found[each]).name == word
    for kind, name in (("sizes", known.sizes[1]), ("counts", "three")):
        assert max((c for c in found if c.kind == kind), key=lambda c: found[c]).name == name
        assert found[Choice(kind, name)] > 3 * sum(
            number for c, number in found.items() if c.kind == kind and c.name != name
        )


def test_even_weights_leave_the_vocabulary_s_shares() -> None:
    found = chosen("world", multi=0.0, negatives=0.0)
    grounds = [number for choice, number in found.items() if choice.kind == "backgrounds"]
    assert len(grounds) == 6 and max(grounds) < 1.3 * min(grounds)
    subclasses = Counter(choice.of for choice in found if choice.kind == "subclasses")
    known = Settings().load_vocabulary()
    assert subclasses == {entry.name: len(entry.subclasses) for entry in known.classes}


def test_of_a_caption_nothing_but_the_class_was_chosen() -> None:
    row = {"classes": ["car"], "phrases": ["car"], "background": ""}
    assert choices_of(row, Settings().load_vocabulary()) == [{Choice("classes", "car")}]


def test_without_a_vocabulary_words_are_left_out() -> None:
    row = {"classes": ["car", "bus"], "phrases": ["small car", "bus"], "background": "sand"}
    common = {Choice("backgrounds", "sand"), Choice("counts", "two")}
    assert choices_of(row, None) == [{Choice("classes", name), *common} for name in row["classes"]]
