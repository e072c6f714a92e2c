"""Promotions and rollbacks at once: the champion is the best checkpoint that was not withdrawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.promotions import FINGERPRINT, check_log, prepare, race, settings_of
from infra.settings import Settings
from infra.store import Store
from infra.store.agreement import agree
from infra.store.log import append_entry, read_last
from tasks.promote import champion as promotion
from tasks.promote.champion import promote, roll_back
from testbed.swift import Bucket

MIOU = {"old": 0.4, "mid": 0.5, "good": 0.6, "best": 0.9}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    for name, miou in MIOU.items():
        prepare(store, name, miou)
    return store


@pytest.fixture
def settings(store: Store) -> Settings:
    return settings_of(store)


def promoted(settings: Settings, *names: str) -> dict[str, Any]:
    """Promote checkpoints one after the other; return the last outcome."""
    return [promote.fn(settings, name, FINGERPRINT) for name in names][-1]


def log(store: Store) -> list[dict[str, Any]]:
    names = [name for name in store.list("champions") if name.endswith(".json")]
    return [store.read_json(f"champions/{name}") for name in names]


def meanwhile(monkeypatch: pytest.MonkeyPatch, step: str, happens: Callable[[], object]) -> None:
    """Let another process act once, after a promotion or rollback has decided."""
    function = getattr(promotion, step)
    due = [happens]

    def decide(*arguments: Any, **named: Any) -> Any:
        decided = function(*arguments, **named)
        if due:
            due.pop()()
        return decided

    monkeypatch.setattr(promotion, step, decide)


def test_the_worse_of_two_promotions_at_once_does_not_win(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(settings, "old")
    meanwhile(monkeypatch, "contest", lambda: promoted(settings, "best"))
    outcome = promoted(settings, "good")
    assert not outcome["moved"] and outcome["checkpoint"] == "best"
    assert read_last(store, "champions")[1]["checkpoint"] == "best"
    assert check_log(log(store), MIOU) == []


def test_the_first_two_promotions_at_once_are_both_decided(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, "budget_after", lambda: promoted(settings, "best"))
    assert promoted(settings, "good")["checkpoint"] == "best"
    assert check_log(log(store), MIOU) == []


def test_a_rollback_during_a_promotion_is_not_forgotten(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(settings, "old", "mid")
    meanwhile(monkeypatch, "contest", lambda: roll_back.fn(settings))
    assert promoted(settings, "good")["withdrawn"] == ["mid"]
    assert not promoted(settings, "mid")["moved"]
    assert check_log(log(store), MIOU) == []


def test_a_rollback_withdraws_the_champion_it_saw_and_not_the_one_promoted_meanwhile(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(settings, "old", "mid")
    meanwhile(monkeypatch, "_next_best", lambda: promoted(settings, "good"))
    champion = roll_back.fn(settings)
    assert (champion["checkpoint"], champion["withdrawn"]) == ("good", ["mid"])
    assert champion["before"] == ["old"]
    assert check_log(log(store), MIOU) == []


def test_two_rollbacks_of_one_champion_withdraw_it_once(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(settings, "old", "mid", "good")
    meanwhile(monkeypatch, "_next_best", lambda: roll_back.fn(settings))
    champion = roll_back.fn(settings)
    assert (champion["checkpoint"], champion["withdrawn"]) == ("mid", ["good"])


def test_a_rollback_by_name_wins_over_a_promotion_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(settings, "old", "mid")
    meanwhile(monkeypatch, "_chosen", lambda: promoted(settings, "good"))
    champion = roll_back.fn(settings, "old")
    assert (champion["checkpoint"], champion["withdrawn"]) == ("old", ["good", "mid"])


@pytest.mark.parametrize("order", [("good", "best"), ("best", "good")])
def test_the_order_of_promotions_does_not_decide_who_follows(
    settings: Settings, store: Store, order: tuple[str, str]
) -> None:
    promoted(settings, "old", *order)
    assert roll_back.fn(settings)["checkpoint"] == "good"
    assert roll_back.fn(settings)["checkpoint"] == "old"
    assert check_log(log(store), MIOU) == []


def test_a_promotion_killed_before_its_entry_is_entered_by_the_next(
    settings: Settings, store: Store
) -> None:
    promoted(settings, "old")
    killed = read_last(store, "champions")[1] | {"withdrawn": ["mid"]}
    agree(store, "champions/00000002", json.dumps(killed).encode())
    outcome = promoted(settings, "mid")
    assert outcome["reason"].startswith("it was rolled back")
    assert read_last(store, "champions") == (2, killed)


def test_an_entry_is_never_replaced(store: Store) -> None:
    assert append_entry(store, "champions", 1, {"a": 1})
    assert not append_entry(store, "champions", 1, {"a": 2})
    store.delete("champions/00000001.json")
    assert not append_entry(store, "champions", 1, {"a": 2})
    assert read_last(store, "champions") == (1, {"a": 1})


def test_a_log_that_forgets_or_crowns_the_wrong_one_is_found() -> None:
    first = {"checkpoint": "old"}
    right = {"checkpoint": "mid", "before": ["old"]}
    assert check_log([first, right], MIOU) == []
    assert "mid is the best" in check_log([first, {"checkpoint": "old", "lost": ["mid"]}], MIOU)[0]
    assert "forgets ['old']" in check_log([first, {"checkpoint": "mid"}], MIOU)[0]
    both = {"checkpoint": "best", "before": ["old", "mid"]}
    assert "2 changes" in check_log([first, both], MIOU)[0]


@pytest.mark.slow
def test_forty_at_once_in_a_folder_all_leave_the_best_as_champion(tmp_path: Path) -> None:
    assert race(Store.open(str(tmp_path / "store")), 40) == (40, [])


@pytest.mark.slow
def test_twenty_at_once_in_a_bucket_all_leave_the_best_as_champion(bucket: Bucket) -> None:
    assert race(Store.open(f"{bucket.url}/team", bucket.options), 20) == (20, [])
