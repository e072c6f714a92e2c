"""Photographs that are both trained on and measured on are found before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.settings import Settings, SettingsError
from infra.store import Store
from infra.voc import VocFolder
from tasks.train.overlap import check_disjoint, shared_photographs
from tasks.train.protocols import check_sets
from tasks.train.train import train
from tests.tasks.segmenting import VERSION, publish_squares, small_settings

CLASSES = ("background", "car")


def photograph(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def voc_folder(root: Path, split: str, images: dict[str, Image.Image]) -> Path:
    """Write a folder in VOC layout; the keys are file names below JPEGImages."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for file, image in images.items():
        image.save(root / "JPEGImages" / file, quality=95)
        label = Image.new("L", image.size)
        label.save(root / "SegmentationClass" / f"{Path(file).stem}.png")
    stems = [Path(file).stem for file in images]
    (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(stems))
    return root


def test_a_photograph_is_found_under_another_name_and_as_another_file(tmp_path: Path) -> None:
    voc_folder(tmp_path / "real", "train", {"a.jpg": photograph(1), "b.png": photograph(2)})
    decoded = Image.open(tmp_path / "real/JPEGImages/a.jpg")
    voc_folder(tmp_path / "held", "val", {"c.png": photograph(3), "d.png": decoded})
    shared = shared_photographs(
        VocFolder(tmp_path / "real", "train", CLASSES), VocFolder(tmp_path / "held", "val", CLASSES)
    )
    assert shared == [("a", "d")]


@pytest.fixture
def overlapping(tmp_path: Path) -> Settings:
    """Joint training on a folder that shares seven photographs with that of the evaluation."""
    images = {f"{number}.png": photograph(number) for number in range(9)}
    voc_folder(tmp_path / "real", "train", images)
    voc_folder(tmp_path / "held", "val", dict(list(images.items())[2:]))
    return small_settings(
        tmp_path,
        train={"protocol": "joint", "real": str(tmp_path / "real")},
        evaluate={"voc": str(tmp_path / "held")},
    )


def test_the_error_names_the_files_and_the_remedy(overlapping: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        check_sets(overlapping)
    message = str(caught.value)
    assert message.startswith("7 photographs of train.real are in evaluate.voc too: ")
    assert f"{tmp_path}/real/JPEGImages/2 = {tmp_path}/held/JPEGImages/2" in message
    assert "and 2 more; take their stems out of one of the splits" in message
    assert f"{tmp_path}/real/ImageSets/Segmentation/train.txt" in message


def test_no_training_begins_on_photographs_that_it_is_measured_on(overlapping: Settings) -> None:
    store = Store.open(overlapping.store.url)
    publish_squares(store)
    with pytest.raises(SettingsError, match="7 photographs of train"):
        train.fn(overlapping, VERSION)
    assert store.list("checkpoints") == []


def test_splits_of_one_folder_and_unused_folders_are_fine(
    overlapping: Settings, tmp_path: Path
) -> None:
    voc_folder(tmp_path / "held", "val", {"20.png": photograph(20)})
    check_disjoint(overlapping)
    synthetic = overlapping.train.model_copy(update={"protocol": "synthetic"})
    check_disjoint(overlapping.model_copy(update={"train": synthetic}))
