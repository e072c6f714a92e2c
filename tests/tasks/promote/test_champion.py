"""Who is champion, and what each class gets of the next night."""

from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from infra.store import MissingError, Store, StoreError
from tasks.evaluate.evaluate import evaluation_path
from tasks.promote.budget import LEAST, LEAST_KEPT, LEAST_NEED, MOST, keep_rates, next_budget
from tasks.promote.champion import (
    decide,
    promote,
    roll_back,
    watch_champion,
)
from tests.tasks.segmenting import VERSION, publish_squares, small_settings, write_run


def entry(name: str, miou: float, fingerprint: str = "a" * 64, **iou: float) -> dict[str, Any]:
    """What champion.json would hold of a checkpoint."""
    evaluation = {
        "set": "squares",
        "fingerprint": fingerprint,
        "miou": miou,
        "iou": iou or {"car": 0.8, "bus": 0.4},
    }
    return {"checkpoint": name, "version": VERSION, "evaluation": evaluation}


def test_the_first_checkpoint_takes_the_vacant_place() -> None:
    assert decide(None, entry("new", 0.1)).moved


def test_only_a_better_checkpoint_moves_the_pointer() -> None:
    champion = entry("old", 0.5)
    assert decide(champion, entry("new", 0.51)).moved
    assert not decide(champion, entry("new", 0.5)).moved
    assert decide(champion, entry("new", 0.4)).reason == "mIoU 0.4000 <= 0.5000 of old"


def test_figures_of_different_sets_are_not_compared() -> None:
    decision = decide(entry("old", 0.5), entry("new", 0.9, fingerprint="b" * 64))
    assert not decision.moved
    assert (
        "champion old was measured on squares (aaaaaaaaaaaa), not on squares (bbbbbbbbbbbb); evaluate"
        in decision.reason
    )


def test_a_champion_does_not_challenge_itself() -> None:
    assert decide(entry("old", 0.5), entry("old", 0.5)).reason == "it is the champion already"


def test_the_budget_is_need_over_what_is_kept() -> None:
    budget = next_budget(
        {"car": 0.8, "bus": 0.7, "tree": 0.7}, {"car": 0.5, "bus": 0.5, "tree": 0.75}
    )
    weights = {"car": 0.2 / 0.5, "bus": 0.3 / 0.5, "tree": 0.3 / 0.75}
    assert budget == pytest.approx(
        {name: weight / sum(weights.values()) for name, weight in weights.items()}, abs=1e-5
    )


@pytest.mark.parametrize("iou", [0.0, 0.5, 1.0, None])
@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_no_class_starves_and_none_takes_the_night(iou: float | None, kept: float) -> None:
    names = [f"class {number}" for number in range(7)]
    budget = next_budget(
        dict.fromkeys(names, 0.9) | {names[0]: iou}, dict.fromkeys(names, 0.8) | {names[0]: kept}
    )
    assert sum(budget.values()) == pytest.approx(1, abs=1e-4)
    assert min(budget.values()) >= LEAST / 7 - 1e-5 and max(budget.values()) <= MOST / 7 + 1e-5


def test_a_weaker_class_never_gets_less() -> None:
    kept = {"car": 0.5, "bus": 0.5, "tree": 0.5}
    shares = [
        next_budget({"car": iou, "bus": 0.5, "tree": 0.6}, kept)["car"] for iou in (0.9, 0.6, 0.3)
    ]
    assert shares == sorted(shares) and shares[0] < shares[-1]


def test_perfect_and_hopeless_classes_have_floors() -> None:
    assert LEAST_NEED > 0 < LEAST_KEPT
    assert next_budget({"car": 1.0}, {"car": 0.0}) == {"car": 1.0}
    assert next_budget({}, {"car": 0.5, "bus": 0.5}) == {"bus": 0.5, "car": 0.5}
    with pytest.raises(ValueError, match="no class was planned"):
        next_budget({"car": 0.5}, {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    """A store with a run, its version, and checkpoints `old`, `worse` and `better` with
    evaluations.
    """
    store = Store.open(settings.store.url)
    publish_squares(store)
    write_run(store, {"car": [True, True, True, False], "bus": [True, False, False, False]})
    for name, miou in (("old", 0.5), ("worse", 0.4), ("better", 0.6)):
        evaluated(store, entry(name, miou))
    return store


def trained(store: Store, name: str) -> None:
    """Write a checkpoint's meta.json."""
    meta = {"checkpoint": name, "version": VERSION, "manifest": "", "files": {}, "classes": []}
    store.write_json(f"checkpoints/{name}/meta.json", meta)


def evaluated(store: Store, found: dict[str, Any]) -> None:
    """Write a checkpoint's meta.json and evaluation."""
    trained(store, found["checkpoint"])
    path = evaluation_path(found["checkpoint"], found["evaluation"]["fingerprint"])
    store.write_json(path, found["evaluation"])


def test_keep_rates_are_counted_by_class(store: Store) -> None:
    assert keep_rates(store, "nightly") == {"car": 0.75, "bus": 0.25}
    assert keep_rates(store, "gone") == {}


def test_the_champion_moves_up_only(settings: Settings, store: Store) -> None:
    moves = [promote.fn(settings, name, "a" * 64)["moved"] for name in ("old", "worse", "better")]
    assert moves == [True, False, True]
    champion = store.read_json("champion.json")
    assert champion["checkpoint"] == "better" and champion["version"] == VERSION
    assert champion["evaluation"]["miou"] == 0.6


def test_promoting_again_changes_nothing(settings: Settings, store: Store) -> None:
    promote.fn(settings, "better", "a" * 64)
    before = store.read_bytes("champion.json")
    outcome = promote.fn(settings, "better", "a" * 64)
    assert not outcome["moved"] and outcome["challenger"]["evaluation"]["miou"] == 0.6
    assert store.read_bytes("champion.json") == before


def test_the_budget_goes_to_the_weak_and_the_seldom_kept(settings: Settings, store: Store) -> None:
    budget = promote.fn(settings, "old", "a" * 64)["budget"]
    assert budget["bus"] > budget["car"] and sum(budget.values()) == pytest.approx(1)
    assert store.read_json("champion.json")["budget"] == budget


def test_a_version_whose_run_is_gone_is_promoted_still(settings: Settings, store: Store) -> None:
    store.delete("runs/nightly")
    assert set(promote.fn(settings, "old", "a" * 64)["budget"]) == {"car", "bus"}


def test_a_champion_measured_on_the_new_set_as_well_is_compared_there(
    settings: Settings, store: Store
) -> None:
    promote.fn(settings, "better", "a" * 64)
    for name, miou in (("worse", 0.3), ("better", 0.2)):
        evaluated(store, entry(name, miou, "b" * 64))
    outcome = promote.fn(settings, "worse", "b" * 64)
    assert outcome["moved"] and outcome["reason"] == "mIoU 0.3000 > 0.2000 of better"


def test_rolling_back_goes_the_way_of_the_champions_backwards(
    settings: Settings, store: Store
) -> None:
    evaluated(store, entry("best", 0.7))
    for name in ("old", "better", "best"):
        promote.fn(settings, name, "a" * 64)
    assert [roll_back.fn(settings)["checkpoint"] for _ in range(2)] == ["better", "old"]
    with pytest.raises(StoreError, match="no earlier champion"):
        roll_back.fn(settings)
    assert store.read_json("champion.json")["withdrawn"] == ["best", "better"]


def test_what_was_rolled_back_comes_back_by_name_only(settings: Settings, store: Store) -> None:
    for name in ("old", "better"):
        promote.fn(settings, name, "a" * 64)
    roll_back.fn(settings)
    outcome = promote.fn(settings, "better", "a" * 64)
    assert not outcome["moved"] and outcome["reason"].startswith("it was rolled back")
    assert store.read_json("champion.json")["checkpoint"] == "old"
    champion = roll_back.fn(settings, "better")
    assert champion["checkpoint"] == "better" and champion["withdrawn"] == ["old"]
    assert roll_back.fn(settings, "better") == champion


def test_the_budget_follows_the_champion_back_even_if_its_version_is_gone(
    settings: Settings, store: Store
) -> None:
    evaluated(store, entry("other", 0.8, car=0.1, bus=0.9))
    promote.fn(settings, "old", "a" * 64)
    before = store.read_json("champion.json")["budget"]
    promote.fn(settings, "other", "a" * 64)
    assert store.read_json("champion.json")["budget"] != before
    assert roll_back.fn(settings)["budget"] == before
    store.delete(f"versions/{VERSION}/manifest.json")
    assert roll_back.fn(settings, "other")["budget"]["car"] > 0.5


def test_only_a_known_and_measured_checkpoint_can_be_rolled_back_to(
    settings: Settings, store: Store
) -> None:
    promote.fn(settings, "old", "a" * 64)
    with pytest.raises(MissingError, match="no finished checkpoint 'never'"):
        roll_back.fn(settings, "never")
    trained(store, "unmeasured")
    with pytest.raises(StoreError, match="'unmeasured' was never evaluated"):
        roll_back.fn(settings, "unmeasured")
    assert store.read_json("champion.json")["checkpoint"] == "old"


def test_a_champion_regresses_if_it_loses_on_a_set_of_the_same_name(
    settings: Settings, store: Store
) -> None:
    promote.fn(settings, "old", "a" * 64)
    grown = entry("old", 0.5 - settings.alarm.regression - 0.01, "b" * 64)["evaluation"]
    assert watch_champion.fn(settings, "old", grown)
    assert not watch_champion.fn(
        settings, "old", {**grown, "miou": 0.5 - settings.alarm.regression / 2}
    )
    assert not watch_champion.fn(settings, "old", {**grown, "set": "other pictures"})
    assert not watch_champion.fn(settings, "better", grown)
