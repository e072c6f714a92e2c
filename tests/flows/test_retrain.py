"""From a version to a champion, and from the champion to the next run's plan."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.retrain import retrain
from infra.settings import Settings
from tasks.plan.resolve import resolve
from testbed import nights

TINY = {"train": {"steps": 2, "batch_size": 2}, "evaluate": {"images": 2, "batch_size": 2}}


def test_a_version_makes_a_champion_whose_budget_the_next_run_plans_with(
    undisturbed: Settings, folder: Path
) -> None:
    shutil.copytree(undisturbed.store.url, folder)
    chosen = nights.settings(folder, **TINY)
    store, version = nights.store_of(chosen), nights.version(chosen)
    outcome = retrain(chosen, version)
    champion = store.read_json("champions/00000001.json")
    assert outcome["moved"]
    assert champion["version"] == version
    assert champion == {name: outcome[name] for name in champion}
    assert outcome["challenger"] == {
        name: champion[name] for name in ("checkpoint", "version", "evaluation")
    }
    following = nights.settings(folder, name="next", plan={"images": 4})
    nights.run(following)
    plan = store.read_json("runs/next/settings.json")["settings"]["plan"]
    budget = plan["budget"]
    assert budget.keys() == champion["budget"].keys() == set(following.load_vocabulary().names)
    mean = sum(champion["budget"].values()) / len(budget)
    assert budget == pytest.approx(
        {name: share / mean for name, share in champion["budget"].items()}, abs=1e-5
    )
    weights = {name: plan[name] for name in champion["weights"]}
    assert weights == champion["weights"]
    assert retrain(chosen, version)["reason"] == "it is the champion already"


def test_a_champion_that_did_not_see_a_night_steers_the_words_of_the_next(
    undisturbed: Settings, folder: Path
) -> None:
    shutil.copytree(undisturbed.store.url, folder)
    chosen = nights.settings(folder, **TINY)
    store = nights.store_of(chosen)
    retrain(chosen, nights.version(chosen))
    assert not store.exists("runs/night/survey.json")  # it has learned that night
    cars = {name: float(name == "car") for name in chosen.load_vocabulary().names}
    alone = {"plan": {"multi": 0.0, "budget": cars}, "compose": {"images": 0}}
    second = nights.settings(folder, name="second", seed=8, **alone, **TINY)
    nights.run(second)
    retrain(second, nights.version(second))
    survey = store.read_json("runs/second/survey.json")
    assert survey["checkpoint"] == store.read_json("champions/00000001.json")["checkpoint"]
    assert {one["of"] for one in survey["objects"]} == {"car"}
    grounds = store.read_table("runs/second/plan.parquet")["background"]
    hard = grounds[survey["objects"][0]["row"]]
    for one in survey["objects"]:  # a network of two steps finds nothing anywhere
        one["missing"] = 0.9 if grounds[one["row"]] == hard else 0.1
    store.write_json("runs/second/survey.json", survey)
    outcome = retrain(second, nights.version(second))
    weights = outcome["weights"]["backgrounds"]
    assert max(weights, key=weights.__getitem__) == hard and weights[hard] > 1
    assert store.read_json("runs/second/budget.json")["rows"] == outcome["steering"]
    page = store.read_bytes("runs/second/report.html").decode()
    assert f"background <b>{hard}</b></td><td>{weights[hard]:.2f}" in page
    third = resolve(store, nights.settings(folder, name="third", seed=9))
    assert third.plan.backgrounds == weights
