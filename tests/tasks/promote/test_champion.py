"""Which checkpoint is the champion, and each class's share of the next run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.settings import PromoteSettings, Settings
from infra.store import MissingError, Store, StoreError
from tasks.evaluate.bootstrap import LEAST_IMAGES
from tasks.evaluate.measure import HITS, PREDICTED, Counts
from tasks.evaluate.stored import write_evaluation
from tasks.promote.budget import LEAST, LEAST_KEPT, LEAST_NEED, MOST, next_budget
from tasks.promote.champion import promote, roll_back, watch_champion
from tasks.promote.decision import Decision, compare_counts, settle
from tasks.promote.outcomes import keep_rates, read_outcomes
from tasks.promote.pointer import read_champion
from tests.tasks.segmenting import VERSION, publish_squares, small_settings, write_run

IMAGES = 40
CLASSES = ("background", "car", "bus")


def counted(miou: float, images: int = IMAGES) -> Counts:
    """Pixel counts of images of 100 pixels per class, each with about this IoU of every class."""
    spread = np.where(np.arange(images) % 2, 0.02, -0.02)
    hits = (100 * (miou + spread)).round().astype(np.int64)
    counts = np.full((images, 3, len(CLASSES)), 100, np.int64)
    counts[:, HITS] = hits[:, None]
    counts[:, PREDICTED] = hits[:, None]
    return counts


def entry(
    name: str, miou: float, fingerprint: str = "a" * 64, images: int = IMAGES, **iou: float
) -> dict[str, Any]:
    """What the champion's entry holds of a checkpoint; the reported set's mIoU is 0.1 lower."""
    by_class: dict[str, float] = {"background": 0.9, **(iou or {"car": 0.8, "bus": 0.4})}
    decision = {
        "set": "other squares",
        "fingerprint": fingerprint[::-1],
        "images": images,
        "miou": miou,
        "iou": by_class,
    }
    reported = {**decision, "set": "squares", "fingerprint": fingerprint, "miou": miou - 0.1}
    evaluation = {**reported, "known": list(CLASSES), "decision": decision}
    return {"checkpoint": name, "version": VERSION, "evaluation": evaluation}


def newest(store: Store) -> dict[str, Any]:
    """The entry of the champion."""
    champion = read_champion(store)
    assert champion
    return champion


def decide(
    champion: dict[str, Any],
    challenger: dict[str, Any],
    images: int = IMAGES,
    margin: float | None = None,
) -> Decision:
    """Decide between two entries with the counts that belong to their figures."""
    held, offered = (one["evaluation"]["decision"]["miou"] for one in (champion, challenger))
    counts = counted(held, images), counted(offered, images)
    return compare_counts(champion, challenger, counts, CLASSES, margin)


def test_only_a_better_checkpoint_moves_the_pointer() -> None:
    champion = entry("old", 0.5)
    assert decide(champion, entry("new", 0.55)).moved
    assert not decide(champion, entry("new", 0.5)).moved
    assert not decide(champion, entry("new", 0.4)).moved


def test_the_reason_gives_both_figures_and_the_interval() -> None:
    better = decide(entry("old", 0.5), entry("new", 0.6)).reason
    worse = decide(entry("old", 0.5), entry("new", 0.4)).reason
    figures = "mIoU 0.6000 against 0.5000 of old on other squares: 95% interval of the difference"
    assert better == f"{figures} +0.1000 to +0.1000 is above 0"
    assert worse.endswith("interval of the difference -0.1000 to -0.1000 is not above 0")


def test_few_images_cannot_move_the_pointer_however_good_they_look() -> None:
    decision = decide(entry("old", 0.2), entry("new", 0.9), images=LEAST_IMAGES - 1)
    assert not decision.moved
    assert "5 images are too few to tell, 6 are needed; `segmint rollback --to new`" in (
        decision.reason
    )


def test_a_margin_of_the_user_promotes_where_the_interval_would_not() -> None:
    better = entry("old", 0.5), entry("new", 0.6)
    few = LEAST_IMAGES - 1
    won = decide(*better, few, margin=0.05)
    assert won.moved and won.compared
    assert won.reason.endswith("the difference +0.1000 is at least promote.margin 0.05")
    assert not decide(*better, few, margin=0.2).moved


def test_a_margin_that_is_missed_leaves_the_decision_to_the_interval() -> None:
    assert decide(entry("old", 0.5), entry("new", 0.6), margin=0.2).moved
    assert not decide(entry("old", 0.6), entry("new", 0.5), margin=0.2).moved


def test_the_margin_is_a_setting(settings: Settings, store: Store) -> None:
    for name, miou in (("a", 0.5), ("b", 0.6)):
        trained(store, name)
        counts = counted(miou, images=3)
        write_evaluation(store, name, entry(name, miou, images=3)["evaluation"], counts, counts)
    own = {"promote": PromoteSettings(margin=0.05)}
    promote.fn(settings, "a", "a" * 64)
    assert not promote.fn(settings, "b", "a" * 64)["moved"]
    assert promote.fn(settings.model_copy(update=own), "b", "a" * 64)["moved"]


def test_classes_that_the_set_cannot_show_do_not_decide(settings: Settings, store: Store) -> None:
    found = {
        name: entry(name, 0.5)["evaluation"] | {"known": ["background", "car"]} for name in "ab"
    }
    for name, hits in (("a", 0), ("b", 100)):
        trained(store, name)
        counts = counted(0.5)
        counts[:, (HITS, PREDICTED), CLASSES.index("bus")] = hits
        write_evaluation(store, name, found[name], counts, counts)
        outcome = promote.fn(settings, name, "a" * 64)
    assert outcome["checkpoint"] == "a" and "+0.0000 to +0.0000 is not above 0" in outcome["reason"]


def test_figures_of_different_sets_are_not_compared() -> None:
    decision = decide(entry("old", 0.5), entry("new", 0.9, fingerprint="b" * 64))
    assert not decision.moved
    assert (
        "champion old was measured on squares (aaaaaaaaaaaa), not on squares (bbbbbbbbbbbb)"
        in decision.reason
    )


def test_a_champion_does_not_challenge_itself() -> None:
    found = settle(entry("old", 0.5), entry("old", 0.5))
    assert found == Decision(False, "it is the champion already")
    assert settle(entry("old", 0.5), entry("new", 0.5)) is None


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
def test_every_class_gets_a_share_within_bounds(iou: float | None, kept: float) -> None:
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
    """A store with a run, its version, and evaluated checkpoints `old`, `worse` and `better`."""
    store = Store.open(settings.store.url)
    publish_squares(store)
    write_run(store, {"car": [True, True, True, False], "bus": [True, False, False, False]})
    for name, miou in (("old", 0.5), ("worse", 0.4), ("better", 0.6)):
        evaluated(store, entry(name, miou))
    return store


def trained(store: Store, name: str) -> None:
    """Write a checkpoint's meta.json."""
    meta = {
        "checkpoint": name,
        "version": VERSION,
        "manifest": "",
        "files": {},
        "classes": list(CLASSES),
    }
    store.write_json(f"checkpoints/{name}/meta.json", meta)


def evaluated(store: Store, found: dict[str, Any]) -> None:
    """Write a checkpoint's meta.json and evaluation."""
    trained(store, found["checkpoint"])
    evaluation = found["evaluation"]
    counts = counted(evaluation["decision"]["miou"])
    write_evaluation(store, found["checkpoint"], evaluation, counts, counts)


def test_keep_rates_are_counted_by_class(store: Store) -> None:
    assert keep_rates(read_outcomes(store, "nightly")) == {"car": 0.75, "bus": 0.25}
    assert keep_rates(read_outcomes(store, "gone")) == {}


def test_composed_rows_do_not_count_for_keep_rates(store: Store) -> None:
    generated = {"car": [True, False], "bus": [True, False, False, False]}
    scenes = {"car": [True] * 4, "bus": [True] * 4}
    write_run(store, generated, composed=scenes)
    assert keep_rates(read_outcomes(store, "nightly")) == {"car": 0.5, "bus": 0.25}


def test_the_champion_moves_up_only(settings: Settings, store: Store) -> None:
    moves = [promote.fn(settings, name, "a" * 64)["moved"] for name in ("old", "worse", "better")]
    assert moves == [True, False, True]
    champion = newest(store)
    assert champion["checkpoint"] == "better" and champion["version"] == VERSION
    assert champion["evaluation"]["miou"] == 0.5  # the reported set's, not that which decided


def test_the_outcome_has_both_the_trained_checkpoint_and_the_champion(
    settings: Settings, store: Store
) -> None:
    promote.fn(settings, "better", "a" * 64)
    outcome = promote.fn(settings, "worse", "a" * 64)
    assert outcome["trained"] == outcome["challenger"] == entry("worse", 0.4)
    assert outcome["champion"] == entry("better", 0.6)
    assert outcome["checkpoint"] == "better" and not outcome["moved"]


def test_promoting_again_changes_nothing(settings: Settings, store: Store) -> None:
    promote.fn(settings, "better", "a" * 64)
    before = store.list("champions")
    outcome = promote.fn(settings, "better", "a" * 64)
    assert not outcome["moved"] and outcome["challenger"]["evaluation"]["miou"] == 0.5
    assert store.list("champions") == before


def test_the_budget_goes_to_the_weak_and_the_seldom_kept(settings: Settings, store: Store) -> None:
    budget = promote.fn(settings, "old", "a" * 64)["budget"]
    assert budget["bus"] > budget["car"] and sum(budget.values()) == pytest.approx(1)
    assert newest(store)["budget"] == budget


def test_a_version_whose_run_was_deleted_is_promoted(settings: Settings, store: Store) -> None:
    store.delete("runs/nightly")
    assert set(promote.fn(settings, "old", "a" * 64)["budget"]) == {"car", "bus"}


def test_a_champion_measured_on_the_new_set_as_well_is_compared_there(
    settings: Settings, store: Store
) -> None:
    promote.fn(settings, "better", "a" * 64)
    for name, miou in (("worse", 0.3), ("better", 0.2)):
        evaluated(store, entry(name, miou, "b" * 64))
    outcome = promote.fn(settings, "worse", "b" * 64)
    assert outcome["moved"]
    assert outcome["reason"].startswith("mIoU 0.3000 against 0.2000 of better on other squares")


def test_a_champion_without_pixel_counts_is_measured_again(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote.fn(settings, "old", "a" * 64)
    store.delete(f"checkpoints/old/evaluations/{'a' * 16}.parquet")
    measured: list[str] = []

    def measure(store: Store, settings: Settings, name: str) -> dict[str, Any]:
        measured.append(name)
        evaluated(store, entry(name, 0.55))
        return entry(name, 0.55)["evaluation"]  # type: ignore[no-any-return]

    monkeypatch.setattr("tasks.promote.contest.evaluate_checkpoint", measure)
    outcome = promote.fn(settings, "better", "a" * 64)
    assert measured == ["old"]
    assert outcome["moved"] and "mIoU 0.6000 against 0.5500 of old" in outcome["reason"]


def test_a_champion_with_other_classes_stays_until_somebody_decides(
    settings: Settings, store: Store
) -> None:
    promote.fn(settings, "old", "a" * 64)
    meta = store.read_json("checkpoints/better/meta.json")
    store.write_json("checkpoints/better/meta.json", meta | {"classes": ["background", "tree"]})
    outcome = promote.fn(settings, "better", "a" * 64)
    assert not outcome["moved"] and outcome["checkpoint"] == "old"
    assert outcome["reason"] == (
        "champion old has other classes (in one of the two only: bus, car, tree); "
        "`segmint rollback --to better` makes better the champion"
    )


def test_a_champion_that_was_deleted_is_succeeded(settings: Settings, store: Store) -> None:
    promote.fn(settings, "better", "a" * 64)
    store.delete("checkpoints/better")
    outcome = promote.fn(settings, "old", "a" * 64)
    assert outcome["moved"] and outcome["reason"] == "champion better was deleted"
    assert newest(store)["before"] == []


def test_a_first_champion_needs_no_minimum_of_images(settings: Settings, store: Store) -> None:
    tiny = entry("old", 0.5, "c" * 64, images=1)["evaluation"]
    write_evaluation(store, "old", tiny, counted(0.5, 1), counted(0.5, 1))
    outcome = promote.fn(settings, "old", "c" * 64)
    assert outcome["moved"] and outcome["reason"] == "there was no champion"


def test_rolling_back_goes_through_the_earlier_champions(settings: Settings, store: Store) -> None:
    evaluated(store, entry("best", 0.7))
    for name in ("old", "better", "best"):
        promote.fn(settings, name, "a" * 64)
    assert [roll_back.fn(settings)["checkpoint"] for _ in range(2)] == ["better", "old"]
    with pytest.raises(StoreError, match="no earlier champion"):
        roll_back.fn(settings)
    assert newest(store)["withdrawn"] == ["best", "better"]


def test_a_withdrawn_checkpoint_becomes_champion_by_name_only(
    settings: Settings, store: Store
) -> None:
    for name in ("old", "better"):
        promote.fn(settings, name, "a" * 64)
    roll_back.fn(settings)
    outcome = promote.fn(settings, "better", "a" * 64)
    assert not outcome["moved"] and outcome["reason"].startswith("it was rolled back")
    assert newest(store)["checkpoint"] == "old"
    champion = roll_back.fn(settings, "better")
    assert champion["checkpoint"] == "better" and champion["withdrawn"] == ["old"]
    assert roll_back.fn(settings, "better") == champion


def test_the_budget_follows_the_champion_back_even_if_its_version_is_gone(
    settings: Settings, store: Store
) -> None:
    evaluated(store, entry("other", 0.8, car=0.1, bus=0.9))
    promote.fn(settings, "old", "a" * 64)
    before = newest(store)["budget"]
    promote.fn(settings, "other", "a" * 64)
    assert newest(store)["budget"] != before
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
    assert newest(store)["checkpoint"] == "old"


def test_a_champion_regresses_if_it_loses_on_a_set_of_the_same_name(
    settings: Settings, store: Store
) -> None:
    promote.fn(settings, "old", "a" * 64)
    grown = entry("old", 0.5 - settings.alarm.regression - 0.01, "b" * 64)["evaluation"]
    assert watch_champion.fn(settings, "old", grown)
    assert not watch_champion.fn(
        settings, "old", {**grown, "miou": 0.4 - settings.alarm.regression / 2}
    )
    assert not watch_champion.fn(settings, "old", {**grown, "set": "other pictures"})
    assert not watch_champion.fn(settings, "better", grown)
