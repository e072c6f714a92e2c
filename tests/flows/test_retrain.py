"""From a version to a champion, and from the champion to the next run's plan."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.retrain import retrain
from infra.settings import Settings
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
    budget = store.read_json("runs/next/settings.json")["settings"]["plan"]["budget"]
    assert budget.keys() == champion["budget"].keys() == set(following.load_vocabulary().names)
    mean = sum(champion["budget"].values()) / len(budget)
    assert budget == pytest.approx(
        {name: share / mean for name, share in champion["budget"].items()}, abs=1e-5
    )
    assert retrain(chosen, version)["reason"] == "it is the champion already"
