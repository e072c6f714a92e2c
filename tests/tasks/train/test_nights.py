"""Trainings on several versions, and from the champion: their checkpoints, names and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infra.settings import Settings, SettingsError
from infra.store import MissingError, Store, StoreError, read_version
from tasks.plan.prepare import prepare
from tasks.train.checkpoints import load_checkpoint, read_meta
from tasks.train.naming import checkpoint_name
from tasks.train.recipe import recipe_of
from tasks.train.start import FINE_TUNING
from tasks.train.train import train, train_on_version
from tasks.train.weighting import Weighting
from testbed.swift import Bucket
from tests.models.test_segmenters import TINY
from tests.tasks.segmenting import publish_squares, small_settings, write_run

pytestmark = pytest.mark.slow  # every one trains

NIGHTS = ("a-0123abcd", "b-0123abcd", "nightly-0123abcd")
NEWEST = NIGHTS[-1]
BOTH = {"versions": "all", "steps": 2}


def prepared(folder: Path, **train: object) -> tuple[Settings, Store]:
    settings = small_settings(folder, train=train)
    store = Store.open(settings.store.url)
    publish_nights(store)
    return settings, store


def publish_nights(store: Store) -> None:
    for number, name in enumerate(NIGHTS):
        publish_squares(store, name, count=6, first=6 * number, run=name[:-9])


def crown(store: Store, checkpoint: str) -> None:
    measured = {"set": "squares", "fingerprint": "a" * 64, "miou": 0.5, "iou": {}}
    champion = {"checkpoint": checkpoint, "version": NEWEST, "evaluation": measured}
    number = len(store.list("champions")) + 1
    store.write_json(f"champions/{number:08d}.json", champion)


def test_a_single_version_has_the_name_and_meta_that_it_always_had(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path)
    recipe = recipe_of(settings.train, settings.seed)
    name = train.fn(settings, NEWEST)
    assert name == checkpoint_name(NEWEST, recipe)
    assert not {"versions", "start"} & read_meta(store, name).keys()
    assert not store.exists(f"checkpoints/{name}/versions.json")
    alone = settings.train.model_copy(update={"versions": 1})
    assert train.fn(settings.model_copy(update={"train": alone}), NEWEST) == name


def test_a_checkpoint_lists_all_its_versions_and_their_digests(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, **BOTH)
    write_run(store, {"car": [True]})
    name = train.fn(settings, NEWEST)
    meta = read_meta(store, name)
    digests = {each["name"]: each["digest"] for each in meta["versions"]}
    assert digests == {name: read_version(store, name).digest for name in reversed(NIGHTS)}
    assert list(digests) == [NEWEST, "b-0123abcd", "a-0123abcd"] and meta["samples"] == 18
    assert (meta["version"], meta["manifest"]) == (NEWEST, digests[NEWEST])
    assert store.read_json("runs/nightly/training.json") == meta
    assert name.startswith(f"{NEWEST}-") and train.fn(settings, NEWEST) == name


def test_other_versions_or_other_bytes_of_one_give_another_name(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path)
    recipe = recipe_of(settings.train, settings.seed)
    manifests = [read_version(store, name) for name in reversed(NIGHTS)]
    store.delete(f"versions/{NIGHTS[0]}")
    publish_squares(store, NIGHTS[0], count=4, run="a")
    other = [*manifests[:2], read_version(store, NIGHTS[0])]
    chosen = (manifests, manifests[:2], other, manifests[:1])
    names = [checkpoint_name(NEWEST, recipe, manifests=each) for each in chosen]
    assert len(set(names)) == 4 and names[-1] == checkpoint_name(NEWEST, recipe)


def test_weights_are_part_of_a_checkpoint_only_where_they_are_set(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, **BOTH)
    plain = train.fn(settings, NEWEST)
    assert "weighting" not in read_meta(store, plain)
    chosen = {"version_weights": {NIGHTS[0]: 2}, "class_weights": {"bus": 0.5}}
    weighted = train.fn(small_settings(tmp_path, train=BOTH | chosen), NEWEST)
    meta = read_meta(store, weighted)
    assert meta["weighting"] == {"versions": {NIGHTS[0]: 2.0}, "classes": {"bus": 0.5}}
    assert weighted != plain and meta["files"] != read_meta(store, plain)["files"]
    alone = small_settings(tmp_path, train={"class_weights": {"bus": 0.5}, "steps": 2})
    assert not store.exists(f"checkpoints/{train.fn(alone, NEWEST)}/versions.json")


def test_the_weight_of_what_is_not_trained_on_is_refused(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path)
    recipe = recipe_of(settings.train, settings.seed)
    with pytest.raises(SettingsError, match=r"names 'c-1', but the training takes night.*leave"):
        train_on_version(store, NEWEST, recipe, versions=2, weighting=Weighting({"c-1": 2.0}))
    with pytest.raises(SettingsError, match=r"names 'buss'.*: did you mean 'bus'\?"):
        train_on_version(store, NEWEST, recipe, weighting=Weighting(classes={"buss": 2.0}))
    assert not store.list("checkpoints")


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_an_interrupted_training_on_several_versions_goes_on_from_the_store(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    class PowerCutError(Exception):
        pass

    def pull_the_plug(row: dict[str, float]) -> None:
        raise PowerCutError

    settings, undisturbed = prepared(tmp_path, **BOTH)
    store = Store.open(str(tmp_path / "other"))
    if place == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        store = Store.open(bucket.url, bucket.options)
    publish_nights(store)
    recipe = recipe_of(settings.train, settings.seed)
    with pytest.raises(PowerCutError):
        train_on_version(store, NEWEST, recipe, versions="all", progress=pull_the_plug)
    publish_squares(store, "later-0123abcd", count=2, first=20)
    resumed = train_on_version(store, NEWEST, recipe, versions="all")
    whole = train_on_version(undisturbed, NEWEST, recipe, versions="all")
    assert len(resumed["versions"]) == 3 and resumed["files"] == whole["files"]


def test_joint_training_takes_several_versions_too(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, **BOTH, protocol="joint", real_images=3)
    assert len(read_meta(store, train.fn(settings, NEWEST))["versions"]) == 3


def test_fine_tuning_on_real_images_starts_from_all_versions(tmp_path: Path) -> None:
    settings, store = prepared(
        tmp_path, **BOTH, protocol="fine-tune", real_images=3, fine_tune_steps=1
    )
    meta = read_meta(store, train.fn(settings, NEWEST))
    assert len(meta["versions"]) == 3
    finished = [read_meta(store, name) for name in store.list("checkpoints")]
    assert [len(each["versions"]) for each in finished] == [3, 3]
    assert {each["protocol"]["kind"] for each in finished} == {"synthetic", "fine-tune"}


def test_a_training_from_the_champion_starts_with_its_weights(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, steps=1)
    champion = train.fn(settings, NIGHTS[0])
    crown(store, champion)
    chosen = {"start": "champion", "learning_rate": 1e-12, "weights": None, "steps": 1}
    tuned = small_settings(tmp_path, train=chosen)
    meta = read_meta(store, train.fn(tuned, NEWEST))
    weights = read_meta(store, champion)["files"]["weights.safetensors"]
    assert meta["start"] == {"checkpoint": champion, "sha256": weights}
    assert meta["recipe"]["learning_rate"] == pytest.approx(1e-12 * FINE_TUNING)
    before, after = (
        load_checkpoint(store, name).network.parameters() for name in (champion, meta["checkpoint"])
    )
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_another_champion_gives_another_checkpoint_and_its_own_none(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, steps=1)
    crown(store, train.fn(settings, NIGHTS[0]))
    tuned = small_settings(tmp_path, train={"start": "champion", "weights": None, "steps": 1})
    first = train.fn(tuned, NEWEST)
    assert train.fn(tuned, NEWEST) == first
    crown(store, first)
    assert train.fn(tuned, NEWEST) == first  # not once more from its own result
    crown(store, train.fn(settings, NIGHTS[1]))
    assert train.fn(tuned, NEWEST) != first


def test_a_champion_that_does_not_fit_is_refused_before_the_training(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, steps=1)
    publish_squares(store, "z-0123abcd", first=20, count=2, classes={"car": 1, "van": 2})
    tuned = small_settings(tmp_path, train={"start": "champion", "weights": None, "steps": 1})
    with pytest.raises(SettingsError, match="has no champion; train the first segmenter"):
        train.fn(tuned, NEWEST)
    champion = train.fn(settings, NIGHTS[0])
    crown(store, champion)
    with pytest.raises(SettingsError, match="has the classes background, car, bus, not backgroun"):
        train.fn(tuned, "z-0123abcd")
    (tmp_path / "tiny.py").write_text(TINY.replace("channels=16", "channels=8"))
    with pytest.raises(SettingsError, match=r"is another network than train\.model = "):
        train.fn(tuned, NEWEST)
    assert store.list("checkpoints") == [champion]


def test_weights_and_the_champion_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="start is 'champion' and weights is 'random'"):
        small_settings(tmp_path, train={"start": "champion"})


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ({"versions": ["typo-1"]}, MissingError, "no version 'typo-1' is published"),
        ({"start": "champion", "weights": None}, SettingsError, "has no champion"),
        ({"class_weights": {"cra": 2}}, SettingsError, "names 'cra'.* did you mean 'car'"),
        ({"versions": 5, "version_weights": {"typo-1": 2}}, MissingError, "no version 'typo-1'"),
    ],
)
def test_missing_versions_and_champions_end_a_run_before_it_generates(
    tmp_path: Path, train: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = Settings(store={"url": str(tmp_path / "store")}, train=train)
    with pytest.raises(error, match=message):
        prepare.fn(settings)
    assert not (tmp_path / "store" / "runs").exists()


def test_a_checkpoint_of_other_bytes_is_refused(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, **BOTH)
    name = train.fn(settings, NEWEST)
    manifest = read_version(store, NIGHTS[0])
    store.delete(f"versions/{NIGHTS[0]}")
    publish_squares(store, NIGHTS[0], count=4, run="a")
    changed = read_version(store, NIGHTS[0])
    with pytest.raises(
        StoreError, match=f"was trained on {NIGHTS[0]} with digest {manifest.digest[:12]}"
    ):
        read_meta(store, name, changed)
