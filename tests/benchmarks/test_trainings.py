"""Benchmarks train as users do, and each training once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from benchmarks import trainings
from benchmarks.claims import Size
from benchmarks.trainings import InMemory, Training, recipe_for, results
from infra.settings import Settings
from infra.store import Store
from tasks.train.recipe import recipe_of


class Nothing(Dataset[Any]):
    """A set that cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an item was read")


def training(**changes: Any) -> Training:
    usual = Training("a name", Nothing(), "content", ("background", "car"), recipe_for("quick"), 10)
    return replace(usual, **changes)


def test_the_default_size_trains_with_the_default_settings() -> None:
    assert recipe_for("default", seed=3) == recipe_of(Settings().train, 3)


@pytest.mark.parametrize("size", ["quick", "full"])
def test_other_sizes_change_the_number_of_steps_and_nothing_else(size: Size) -> None:
    usual = recipe_for("default")
    assert recipe_for(size) == replace(usual, steps=trainings.STEPS[size])
    assert recipe_for(size) != usual


@pytest.mark.parametrize(
    "changes",
    [
        {"content": "other"},
        {"classes": ("background", "bus")},
        {"held_out": 11},
        {"recipe": replace(recipe_for("quick"), learning_rate=1.0)},
        {"recipe": recipe_for("quick", seed=1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_training_has_another_key(changes: dict[str, Any]) -> None:
    assert training(**changes).key() != training().key() == training().key()


def test_a_finished_training_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "CACHE", tmp_path)
    store = Store.open(str(tmp_path / "trainings"))
    store.write_json(f"{training().key()}/evaluation.json", {"miou": 0.5, "iou": {"car": 0.5}})
    assert trainings._result(training(), training().key())["miou"] == 0.5


def test_equal_trainings_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Here:
        """Runs jobs in this process."""

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, _: object, job: Training, folder: str) -> Here:
            made.append(folder)
            return self

        def result(self) -> dict[str, Any]:
            return {"miou": 0.5, "iou": {"car": 0.5}}

    monkeypatch.setattr(trainings, "side_by_side", Here)
    found = results([training(), training(content="other"), training()])
    assert len(found) == 3
    assert made == [training().key(), training(content="other").key()]


def test_a_set_in_memory_reads_each_item_once() -> None:
    read: list[int] = []

    class Counting(Nothing):
        def __getitem__(self, index: int) -> int:
            read.append(index)
            return 10 * index

    kept = InMemory(Counting())
    assert [kept[1], kept[1], kept[2]] == [10, 10, 20]
    assert read == [1, 2] and len(kept) == 3
