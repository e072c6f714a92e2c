"""What a segmenter is trained on beside the version, and from which weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset

from infra.settings import Settings, SettingsError
from infra.store import Store
from infra.voc import VocError
from models.embedded import world
from models.segmenters import shares_of, train_segmenter
from tasks.evaluate.evaluate import evaluate
from tasks.train.checkpoints import load_checkpoint, read_meta
from tasks.train.naming import checkpoint_name
from tasks.train.protocols import (
    COPIES,
    SYNTHETIC,
    CopyPaste,
    Protocol,
    Withheld,
    check_sets,
    protocol_of,
    training_set,
)
from tasks.train.recipe import recipe_of
from tasks.train.train import train
from tests.models.test_draws import Shared
from tests.models.test_segmenters import Squares
from tests.tasks.segmenting import VERSION, publish_squares, small_settings

CLASSES = ("background", "car", "bus")
ZERO_SHOT = {"protocol": "zero-shot", "unseen": ["bus"], "real_images": 3}


def prepared(folder: Path, **train: object) -> tuple[Settings, Store]:
    settings = small_settings(folder, train=train)
    store = Store.open(settings.store.url)
    publish_squares(store)
    return settings, store


def test_unseen_classes_lose_their_real_labels_and_nothing_else() -> None:
    real, withheld = Squares(), Withheld(Squares(), ["bus"], CLASSES)
    assert len(real) == len(withheld)
    shown = set()
    for index in range(len(real)):
        before, after = real[index]["label"], withheld[index]["label"]
        shown |= set(before.unique().tolist())
        assert torch.equal(after, torch.where(before == 2, 255, before))
        assert torch.equal(real[index]["image"], withheld[index]["image"])
    assert {1, 2} <= shown


def test_a_set_with_withheld_labels_is_drawn_from_as_before() -> None:
    weighted = Shared()
    assert shares_of(Withheld(weighted, ["bus"], CLASSES)) is weighted.shares
    assert shares_of(Withheld(Squares(), ["bus"], CLASSES)) is None


def test_zero_shot_pastes_unseen_classes_into_real_images() -> None:
    chosen = training_set(Protocol("zero-shot", "drawn", 4, ("bus",)), Squares(), CLASSES)
    buses = [index for index in range(len(Squares())) if 2 in Squares()[index]["label"]]
    assert isinstance(chosen, ConcatDataset) and len(chosen) == len(buses) + COPIES * 4
    for index, bus in enumerate(buses):
        assert torch.equal(chosen[index]["label"], Squares()[bus]["label"])
    for index, drawing in enumerate(map(world.draw, [*range(4)] * COPIES), len(buses)):
        image, bus = chosen[index]["image"], chosen[index]["label"] == 2
        assert (
            bus.any() and image[2, bus].float().mean() > image[0, bus].float().mean()
        )  # a blue square of the version
        assert not (bus.numpy() & (drawing.image == image.permute(1, 2, 0).numpy()).all(-1)).any()


class Pairs(Squares):
    """Squares with a corner of the other class."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        item["label"][-8:, -8:] = 2 - index % 2
        return item


def test_zero_shot_takes_no_seen_class_from_the_version() -> None:
    chosen = training_set(Protocol("zero-shot", "drawn", 1, ("bus",)), Pairs(4), CLASSES)
    for index in range(4):
        before, after = Pairs(4)[index]["label"], chosen[index]["label"]
        assert (before == 1).any()
        assert torch.equal(after, before.masked_fill(before == 1, 255))


def test_a_version_without_an_unseen_class_is_refused_before_training() -> None:
    message = r"no sample of the version shows any class of train\.unseen \(bus\); train on"
    with pytest.raises(ValueError, match=message):
        training_set(Protocol("zero-shot", "drawn", 4, ("bus",)), Squares(1), CLASSES)


def test_pasting_changes_what_it_covers_and_nothing_else() -> None:
    real, pasted = Squares(), CopyPaste(Squares(), Squares(), [2])
    for index in range(len(pasted)):
        before, after = real[index % len(real)], pasted[index]
        changed = (before["image"] != after["image"]).any(0)
        outside = ~(changed | (before["label"] != after["label"]))
        assert changed.any() and outside.float().mean() > 0.2
        assert (after["label"][before["label"] != after["label"]] == 2).all()
        assert torch.equal(pasted[index]["label"], after["label"])


def test_images_stay_as_they_are_if_no_sample_has_the_class() -> None:
    pasted = CopyPaste(Squares(), Squares(1), [2])
    for index in range(4):
        assert torch.equal(pasted[index]["image"], Squares()[index]["image"])
        assert torch.equal(pasted[index]["label"], Squares()[index]["label"])


def test_settings_of_real_images_do_not_change_a_synthetic_checkpoints_name(
    tmp_path: Path,
) -> None:
    settings = [small_settings(tmp_path, train={"real_images": count}) for count in (5, 6)]
    assert {protocol_of(each) for each in settings} == {SYNTHETIC}
    recipe = recipe_of(settings[0].train, settings[0].seed)
    names = {
        checkpoint_name(VERSION, recipe, Protocol(kind, "drawn", 5))
        for kind in ("joint", "fine-tune")
    }
    assert len(names | {checkpoint_name(VERSION, recipe)}) == 3


def test_fine_tuning_starts_from_the_versions_own_checkpoint(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, protocol="fine-tune", real_images=3, fine_tune_steps=2)
    name = train.fn(settings, VERSION)
    first = checkpoint_name(VERSION, recipe_of(settings.train, settings.seed))
    assert (
        read_meta(store, first)["recipe"]["steps"] == 4
        and read_meta(store, name)["recipe"]["steps"] == 2
    )
    start = load_checkpoint(store, first)
    still = train_segmenter(
        Squares(),
        CLASSES,
        replace(recipe_of(settings.train, settings.seed), steps=1, learning_rate=1e-12),
        start=start,
    )
    for before, after in zip(
        start.network.parameters(), still.segmenter.network.parameters(), strict=True
    ):
        assert torch.allclose(before, after, atol=1e-6)


def test_zero_shot_has_figures_for_seen_and_unseen_classes(tmp_path: Path) -> None:
    settings, store = prepared(tmp_path, **ZERO_SHOT)
    name = train.fn(settings, VERSION)
    found = evaluate.fn(settings, name)
    assert read_meta(store, name)["protocol"]["unseen"] == ["bus"]
    assert found["unseen"] == found["iou"]["bus"]
    assert found["seen"] == pytest.approx((found["iou"]["background"] + found["iou"]["car"]) / 2)


def test_joint_training_has_no_unseen_classes(tmp_path: Path) -> None:
    settings, _ = prepared(tmp_path, protocol="joint", real_images=3)
    assert evaluate.fn(settings, train.fn(settings, VERSION))["harmonic"] is None


@pytest.mark.parametrize("train", [{"protocol": "zero-shot"}, {"unseen": ["bus"]}])
def test_unseen_classes_and_zero_shot_come_together(
    tmp_path: Path, train: dict[str, object]
) -> None:
    with pytest.raises(SettingsError, match="zero-shot, and no other protocol"):
        small_settings(tmp_path, train=train)


def test_wrong_sets_are_found_before_a_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train\.unseen names zebra"):
        check_sets(small_settings(tmp_path, train={"protocol": "zero-shot", "unseen": ["zebra"]}))
    with pytest.raises(VocError, match=r"train\.txt"):
        check_sets(small_settings(tmp_path, train={"protocol": "joint", "real": str(tmp_path)}))
    with pytest.raises(ValueError, match=r"train\.unseen names zebra"):
        Withheld(Squares(), ["zebra"], CLASSES)
