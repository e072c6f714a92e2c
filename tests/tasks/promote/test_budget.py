"""What the next night makes more of."""

from __future__ import annotations

import pytest

from tasks.promote.budget import LEAST, MOST, PRIOR, budget_of, next_budget, next_weights
from tasks.promote.choices import Choice
from tasks.promote.outcomes import Outcome

GROUNDS = ("grass", "sand", "snow", "water")
MANY = 400  # objects, which outweigh the prior


def usual(measured: int = MANY, missing: float = 1.0, uncertain: float = 1.0) -> Outcome:
    """An outcome of as many rows as objects, of which select kept half."""
    objects = {"missing": measured * missing, "uncertain": measured * uncertain}
    return Outcome(judged=2 * MANY, kept=MANY, measured=measured, **objects)


def weights(**changed: Outcome) -> dict[str, float]:
    grounds = dict.fromkeys(GROUNDS, usual()) | changed
    found = next_weights({Choice("backgrounds", name): each for name, each in grounds.items()})
    return {choice.name: weight for choice, weight in found.items()}


def test_a_background_on_which_objects_are_missed_gets_more() -> None:
    found = weights(snow=usual(missing=2.0))
    assert found["snow"] > 1.2 > 1 > found["sand"] == found["grass"]


def test_a_background_on_which_predictions_are_uncertain_gets_more() -> None:
    assert weights(snow=usual(uncertain=2.0)) == weights(snow=usual(missing=2.0))


def test_a_background_whose_samples_are_seldom_kept_gets_more() -> None:
    found = weights(snow=Outcome(2 * MANY, MANY // 2, MANY, MANY, MANY))
    assert found["snow"] > 1.2 > found["sand"]


@pytest.mark.parametrize("missing", [0.0, 0.3, 3.0, 1000.0])
def test_one_bad_night_starves_nothing(missing: float) -> None:
    found = weights(snow=usual(missing=missing, uncertain=missing))
    assert all(LEAST <= weight <= MOST for weight in found.values())
    assert sum(found.values()) == pytest.approx(len(GROUNDS), abs=0.01)


def test_few_objects_change_little_and_none_nothing() -> None:
    one, few, many = (
        weights(snow=usual(number, missing=3.0))["snow"] for number in (1, int(PRIOR), 10 * MANY)
    )
    assert 1 < one < 1.05 < few < many
    unmeasured = Outcome(judged=2 * MANY, kept=MANY)
    assert set(weights(**dict.fromkeys(GROUNDS, unmeasured)).values()) == {1.0}
    assert next_weights({}) == {}


def test_a_kind_without_a_choice_has_no_weight() -> None:
    bus, car = Choice("subclasses", "long", "bus"), Choice("subclasses", "red", "car")
    alone = Choice("sizes", "small")
    assert next_weights({bus: usual(), car: usual(missing=3), alone: usual()}) == {}


def test_sub_classes_are_weighed_within_their_class() -> None:
    names = [("long", "bus"), ("tall", "bus"), ("red", "car"), ("blue", "car")]
    outcomes = {Choice("subclasses", name, of): usual() for name, of in names}
    outcomes[Choice("subclasses", "tall", "bus")] = usual(missing=2.0)
    found = budget_of({"iou": {"bus": 0.5, "car": 0.5}}, ["bus", "car"], outcomes)
    assert found.weights["subclasses"]["car"] == {"red": 1.0, "blue": 1.0}
    assert found.weights["subclasses"]["bus"]["tall"] > 1.15


def test_an_uncertain_class_gets_more_at_equal_iou() -> None:
    kept = {"bus": 0.5, "car": 0.5, "tree": 0.5}
    iou = dict.fromkeys(kept, 0.8)
    found = next_budget(iou, kept, {"bus": 0.3, "car": 0.1, "tree": None})
    assert found["bus"] > found["tree"] > found["car"]
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert next_budget(iou, kept, {"bus": 0.0, "car": 0.0}) == next_budget(iou, kept)


def test_every_weight_comes_with_the_figures_that_led_to_it() -> None:
    outcomes = {Choice("classes", "car"): usual(), Choice("classes", "bus"): Outcome(10, 1)}
    outcomes |= {
        Choice("backgrounds", "snow"): usual(missing=1.5),
        Choice("backgrounds", "x"): usual(),
    }
    measured = {"iou": {"car": 0.75, "bus": None}, "uncertainty": {"car": 0.1}}
    found = budget_of(measured, ["car", "bus"], outcomes)
    rows = {(row["what"], row["name"]): row for row in found.rows}
    assert len(rows) == 4
    car = rows["class", "car"]
    assert (car["missing"], car["uncertain"], car["kept"]) == (0.25, 0.1, 0.5)
    assert car["weight"] == pytest.approx(2 * found.classes["car"], abs=1e-3)
    assert rows["class", "bus"]["missing"] is None
    snow = rows["backgrounds", "snow"]
    assert (snow["missing"], snow["measured"], snow["kept"]) == (1.5, MANY, 0.5)
    assert snow["weight"] == found.weights["backgrounds"]["snow"] > 1
