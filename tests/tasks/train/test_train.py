"""From a published version to a checkpoint that knows what it was trained on."""

from pathlib import Path

import pytest
import torch

from infra.settings import Settings, TrainSettings
from infra.store import CorruptShardError, MissingError, Store, StoreError, read_version
from infra.store.mark import MARK
from models.segmenters import Augmentation, predict_probabilities
from tasks.train.checkpoints import load_checkpoint, read_meta
from tasks.train.naming import checkpoint_name
from tasks.train.recipe import recipe_of
from tasks.train.train import (
    class_names,
    train,
    train_on_version,
)
from tests.tasks.segmenting import VERSION, publish_squares, small_settings, write_run


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    store = Store.open(settings.store.url)
    publish_squares(store)
    return store


def test_a_checkpoint_names_its_version_and_the_bytes_of_it(
    settings: Settings, store: Store
) -> None:
    name = train.fn(settings, VERSION)
    meta = read_meta(store, name)
    assert meta["version"] == VERSION and meta["samples"] == 12
    assert meta["manifest"] == read_version(store, VERSION).digest
    assert meta["classes"] == ["background", "car", "bus"]
    assert meta["recipe"]["steps"] == 4 and meta["curve"][-1]["step"] == 4
    files = {"config.json", "meta.json", "weights.safetensors"}
    assert set(store.list(f"checkpoints/{name}")) == {*files, MARK}


def test_the_checkpoint_segments(settings: Settings, store: Store) -> None:
    segmenter = load_checkpoint(store, train.fn(settings, VERSION))
    assert predict_probabilities(segmenter, torch.zeros(1, 3, 30, 40, dtype=torch.uint8)).shape == (
        1,
        3,
        30,
        40,
    )


def test_a_finished_checkpoint_is_not_trained_again(settings: Settings, store: Store) -> None:
    name = train.fn(settings, VERSION)
    before = {
        file: store.read_bytes(f"checkpoints/{name}/{file}")
        for file in store.list(f"checkpoints/{name}")
    }
    assert train.fn(settings, VERSION) == name
    assert before == {file: store.read_bytes(f"checkpoints/{name}/{file}") for file in before}


def test_another_recipe_has_another_name(tmp_path: Path) -> None:
    of_steps = [small_settings(tmp_path, train={"steps": steps}).train for steps in (4, 5, 4)]
    recipes = [recipe_of(train, seed=0) for train in of_steps]
    first, second, again = (checkpoint_name(VERSION, recipe) for recipe in recipes)
    assert first == again != second
    assert first.startswith(VERSION)


def test_an_interrupted_training_goes_on_from_the_store(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    class PowerCutError(Exception):
        pass

    def pull_the_plug(row: dict[str, float]) -> None:
        raise PowerCutError

    recipe = recipe_of(settings.train, settings.seed)
    with pytest.raises(PowerCutError):
        train_on_version(store, VERSION, recipe, progress=pull_the_plug)
    name = checkpoint_name(VERSION, recipe)
    assert set(store.list(f"checkpoints/{name}")) == {MARK, "snapshot.safetensors"}
    with pytest.raises(MissingError, match="no finished checkpoint"):
        read_meta(store, name)
    resumed = train_on_version(store, VERSION, recipe)
    undisturbed = Store.open(str(tmp_path / "other"))
    publish_squares(undisturbed)
    assert resumed["files"] == train_on_version(undisturbed, VERSION, recipe)["files"]


def test_the_report_of_the_run_finds_the_curve(settings: Settings, store: Store) -> None:
    write_run(store, {"car": [True]})
    name = train.fn(settings, VERSION)
    assert store.read_json("runs/nightly/training.json") == read_meta(store, name)


def test_weights_whose_bytes_changed_are_not_loaded(settings: Settings, store: Store) -> None:
    name = train.fn(settings, VERSION)
    path = f"checkpoints/{name}/weights.safetensors"
    data = bytearray(store.read_bytes(path))
    data[-1] ^= 1
    store.write_bytes(path, bytes(data))
    with pytest.raises(CorruptShardError, match=r"weights\.safetensors is not what was written"):
        load_checkpoint(store, name)


def test_a_checkpoint_of_other_bytes_of_the_version_is_refused(
    settings: Settings, store: Store
) -> None:
    name = train.fn(settings, VERSION)
    store.delete(f"versions/{VERSION}")
    publish_squares(store, count=10)
    with pytest.raises(StoreError, match=f"'{name}' was trained on {VERSION} with digest"):
        train.fn(settings, VERSION)


def test_an_unknown_version_is_an_error_that_names_the_existing_ones(
    settings: Settings, store: Store
) -> None:
    with pytest.raises(MissingError, match=f"no version 'nightly-9' .* there are: {VERSION}"):
        train.fn(settings, "nightly-9")


def test_unused_label_ids_keep_the_positions_of_the_others() -> None:
    assert class_names({"tree": 3, "car": 1}) == ("background", "car", "unused 2", "tree")


def test_a_recipe_says_what_the_settings_say() -> None:
    chosen = TrainSettings(
        model="segformer-b0",
        steps=7,
        batch_size=3,
        learning_rate=0.5,
        paste=0.1,
        splice=0.2,
        blur=0.3,
        occlusion=0.4,
        perspective=0.6,
    )
    recipe = recipe_of(chosen, seed=2**32 + 5)
    assert (recipe.config, recipe.steps, recipe.batch_size) == ("segformer-b0", 7, 3)
    assert (recipe.learning_rate, recipe.seed) == (0.5, 5)
    assert recipe.augmentation == Augmentation(0.1, 0.2, 0.3, 0.4, 0.6)
