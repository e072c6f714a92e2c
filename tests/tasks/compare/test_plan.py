"""A comparison is planned before it costs anything, and its page runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.settings import CompareSettings, Settings, SettingsError
from infra.store import MissingError, Store, StoreError
from models.segmenters import Inference, Segmenter, build_segmenter
from tasks.compare.cost import cost_of
from tasks.compare.pace import steps_of
from tasks.compare.page import render_comparison
from tasks.compare.plan import (
    LETTERS,
    Plan,
    _check_equal,
    plan_comparison,
    training_settings,
)
from tests.models.test_segmenters import TINY, Squares
from tests.tasks.segmenting import VERSION, publish_squares, small_settings
from tests.tasks.test_hostile import WORDS, Tags


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose store has a version, evaluated on ten drawn scenes."""
    chosen = small_settings(tmp_path, evaluate={"images": 10, "batch_size": 4})
    publish_squares(Store.open(chosen.store.url))
    return chosen


def with_models(settings: Settings, *models: str, minutes: float | None = None) -> Settings:
    chosen = CompareSettings(models=models, minutes=minutes)
    return settings.model_copy(update={"compare": chosen})


def two_models(settings: Settings, folder: Path, minutes: float | None = None) -> Settings:
    (folder / "other.py").write_text(TINY.replace(" channels=16", " channels=24"))
    return with_models(settings, settings.train.model, str(folder / "other.py"), minutes=minutes)


def with_processes(settings: Settings, gpus: int) -> Settings:
    train = settings.train.model_copy(update={"gpus": gpus})
    return settings.model_copy(update={"train": train})


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_steps_of_equal_minutes_are_measured_once(
    settings: Settings, tmp_path: Path, gpus: int
) -> None:
    chosen = with_processes(two_models(settings, tmp_path, minutes=0.5), gpus)
    plan = plan_comparison(chosen, [], VERSION)
    steps = steps_of.fn(chosen, plan)
    assert set(steps) == set(plan.models)
    store = Store.open(settings.store.url)
    pace = store.read_json(f"comparisons/{plan.name}/pace.json")
    for model, count in steps.items():
        assert count == max(1, round(30 * pace["images_per_second"][model] / 4))
    store.write_json(f"comparisons/{plan.name}/pace.json", {"steps": dict.fromkeys(steps, 7)})
    assert steps_of.fn(chosen, plan) == dict.fromkeys(steps, 7)
    training = training_settings(chosen, plan.models[0], 7)
    assert training.train.steps == 7 and training.train.model == plan.models[0]


def test_a_pace_is_that_of_the_processes_that_will_train(
    settings: Settings, tmp_path: Path
) -> None:
    """Three processes cannot share a batch of four, so what takes them is told."""
    chosen = with_processes(two_models(settings, tmp_path, minutes=1), 3)
    with pytest.raises(ValueError, match=r"train\.gpus is 3, which does not divide .* 4:"):
        steps_of.fn(chosen, Plan("night-1", (), chosen.compare.models, VERSION))


def test_equal_images_take_the_steps_of_the_settings(settings: Settings, tmp_path: Path) -> None:
    plan = Plan("night-1", (), ("segformer", "eomt"), VERSION)
    assert steps_of.fn(with_models(settings, *plan.models), plan) == {
        "segformer": None,
        "eomt": None,
    }


@pytest.mark.parametrize("steps", [{"eomt": 0, "segformer": 3}, {"eomt": 3}, {}])
def test_a_pace_that_does_not_fit_is_refused(settings: Settings, steps: dict[str, int]) -> None:
    plan = Plan("night-1", (), ("segformer", "eomt"), VERSION)
    chosen = with_models(settings, *plan.models, minutes=1)
    store = Store.open(settings.store.url)
    store.write_json("comparisons/night-1/pace.json", {"steps": steps})
    with pytest.raises(StoreError, match=r"pace\.json"):
        steps_of.fn(chosen, plan)


def write_checkpoint(settings: Settings, name: str, *classes: str) -> None:
    found = {"checkpoint": name, "version": VERSION, "manifest": "", "files": {}}
    content = {**found, "classes": ["background", *classes]}
    Store.open(settings.store.url).write_json(f"checkpoints/{name}/meta.json", content)


def test_a_comparison_has_the_same_name_every_time(settings: Settings) -> None:
    write_checkpoint(settings, "a-1", "car", "bus")
    write_checkpoint(settings, "b-1", "car", "bus")
    plan = plan_comparison(settings, ["a-1", "b-1"], None)
    assert plan == plan_comparison(settings, ["a-1", "b-1"], None)
    assert plan.name.startswith("a-1-") and plan.checkpoints == ("a-1", "b-1")
    assert plan.name != plan_comparison(settings, ["b-1", "a-1"], None).name


def test_what_cannot_be_compared_is_said_before_anything_is_computed(settings: Settings) -> None:
    write_checkpoint(settings, "a-1", "car", "bus")
    write_checkpoint(settings, "b-1", "car", "tree")
    with pytest.raises(StoreError, match=r"b-1 has the classes background, car, tree, and a-1 has"):
        plan_comparison(settings, ["a-1", "b-1"], None)
    with pytest.raises(MissingError, match="no finished checkpoint 'c-1'"):
        plan_comparison(settings, ["a-1", "c-1"], None)
    with pytest.raises(StoreError, match="has no champion; name a checkpoint"):
        plan_comparison(settings, ["a-1"], None)
    with pytest.raises(SettingsError, match=f"give 2 to {len(LETTERS)} segmenters, each once"):
        plan_comparison(settings, ["a-1", "a-1"], None)
    with pytest.raises(SettingsError, match="give both, to train models on it, or neither"):
        plan_comparison(settings, ["a-1"], VERSION)
    with pytest.raises(SettingsError, match=r"train.model='segformer-b9'.*is neither one of"):
        plan_comparison(with_models(settings, "segformer", "segformer-b9"), [], VERSION)


def test_trainings_by_configs_of_other_lengths_are_no_comparison(
    settings: Settings, tmp_path: Path
) -> None:
    chosen = two_models(settings, tmp_path)
    pictures = [4 * 4, 4 * 8]
    with pytest.raises(SettingsError, match=r"would train on 16, 32 images.*set train.steps"):
        _check_equal(chosen, pictures)
    _check_equal(two_models(settings, tmp_path, minutes=1), pictures)
    started = chosen.train.model_copy(update={"start": "champion"})
    with pytest.raises(SettingsError, match=r"train.start is 'champion'.*set train.start to"):
        _check_equal(chosen.model_copy(update={"train": started}), [16, 16])


def test_the_cost_is_of_the_network_and_the_batch() -> None:
    segmenter: Segmenter = build_segmenter("segformer", ("background", "car"))
    items: Any = [Squares()[index] for index in range(5)]
    one = cost_of(segmenter, items, 1, Inference())
    four = cost_of(segmenter, items, 4, Inference())
    assert four["parameters"] == one["parameters"]
    activations = [each["peak_bytes"] - 4 * each["parameters"] for each in (one, four)]
    assert 2 < activations[1] / activations[0] < 5


def test_a_page_shows_hostile_words_and_does_nothing_of_what_they_say() -> None:
    def of(letter: str, word: str) -> dict[str, Any]:
        return {
            "letter": letter,
            "checkpoint": word,
            "model": word,
            "version": word,
            "miou": 0.5,
            "pixel_accuracy": 0.5,
            "calibration_error": 0.1,
            "iou": dict.fromkeys(WORDS, 0.5),
            "reliability": [[1.0], [0.5], [1.0]],
            "difference": {"difference": 0.1, "low": 0.0, "high": 0.2} if letter == "B" else None,
            "cost": {"images_per_second": 3, "peak_bytes": 1e6, "parameters": 9, "file_bytes": 36},
            "trained": {"images": 16, "seconds": 4.0},
        }

    found = {"set": WORDS[0], "images": 10, "batch_size": 4, "minutes": None}
    found["contenders"] = [of("A", WORDS[1]), of("B", WORDS[11])]
    picture = {"id": WORDS[11], "src": "data:image/webp;base64,", "width": 9, "height": 9}
    pictures = [{**picture, "miou": {"A": 0.1, "B": 0.2}}]
    page = render_comparison("x-1", found, pictures, dict.fromkeys(WORDS, (1, 2, 3)))
    tags = Tags(page)
    assert not tags.tags & {"script", "iframe", "object", "embed", "base", "form", "http:"}
    assert tags.loads and all(load.startswith("data:") for load in tags.loads)
    assert tags.runs == [] and "<b x" not in page
    assert page.count("<style") == page.count("</style") == 1 and "default-src 'none'" in page
    shown = "".join(tags.text.split())
    assert all("".join(word.split()) in shown for word in WORDS)
