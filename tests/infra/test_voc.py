"""The reader of VOC-layout folders: its items, and its errors for wrong folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.voc import VocError, VocFolder

CLASSES = ("background", "car", "tree")


def add(
    root: Path,
    stem: str,
    label: np.ndarray,
    *,
    suffix: str = ".jpg",
    size: tuple[int, int] | None = None,
) -> None:
    """Write a photograph of the label's size (or `size`, width first) with the label as a palette
    PNG.
    """
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size or label.shape[::-1], (200, 40, 40)).save(
        root / "JPEGImages" / f"{stem}{suffix}"
    )
    image_file = Image.fromarray(label.astype(np.uint8), "L").convert("P")
    image_file.putdata(label.ravel().tolist())
    image_file.save(root / "SegmentationClass" / f"{stem}.png")
    with (root / "ImageSets/Segmentation/val.txt").open("a") as split:
        split.write(f"{stem}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path, "wide", np.array([[0, 1, 2], [255, 1, 0]]))
    add(tmp_path, "tall", np.array([[2], [1], [255]]), suffix=".png")
    return tmp_path


def test_images_and_ids_come_at_their_own_size(root: Path) -> None:
    items = list(VocFolder(root, "val", CLASSES))
    assert [item["id"] for item in items] == ["wide", "tall"]
    assert [item["image"].shape for item in items] == [(2, 3, 3), (3, 1, 3)]
    assert items[0]["label"].tolist() == [[0, 1, 2], [255, 1, 0]]
    assert items[1]["image"].dtype == items[1]["label"].dtype == np.uint8


def test_grey_images_become_colour(root: Path) -> None:
    Image.new("L", (3, 2), 7).save(root / "JPEGImages" / "wide.jpg")
    assert VocFolder(root, "val", CLASSES)[0]["image"].shape == (2, 3, 3)


def test_the_folders_own_class_names_come_first(root: Path) -> None:
    (root / "classes.txt").write_text("ground\nboat\ncow\n\n")
    assert VocFolder(root, "val", CLASSES).classes == ("ground", "boat", "cow")


def test_a_label_of_another_size_is_named_with_both_sizes(root: Path) -> None:
    add(root, "odd", np.zeros((4, 4)), size=(6, 4))
    with pytest.raises(
        VocError, match=r"odd\.png is 4 x 4 pixels, but .*odd\.jpg is 6 x 4 pixels; export"
    ):
        VocFolder(root, "val", CLASSES)[2]


def test_an_id_without_a_class_is_named_with_the_classes(root: Path) -> None:
    add(root, "alien", np.array([[0, 9, 255]]))
    with pytest.raises(
        VocError,
        match=r"alien\.png holds class id 9, but only 0\.\.2 are named \(background, car, tree",
    ):
        VocFolder(root, "val", CLASSES)[2]


def test_a_label_in_colours_is_refused(root: Path) -> None:
    Image.new("RGB", (3, 2)).save(root / "SegmentationClass" / "wide.png")
    with pytest.raises(VocError, match=r"wide\.png has mode RGB.*palette"):
        VocFolder(root, "val", CLASSES)[0]


def test_a_cut_off_image_is_named(root: Path) -> None:
    path = root / "JPEGImages" / "wide.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VocError, match=r"wide\.jpg is no readable image .*export it again"):
        VocFolder(root, "val", CLASSES)[0]


@pytest.mark.parametrize("file", ["JPEGImages/wide.jpg", "SegmentationClass/wide.png"])
def test_a_missing_file_is_named_before_anything_is_read(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(VocError, match=f"{file} is missing"):
        VocFolder(root, "val", CLASSES)


def test_an_unknown_split_is_answered_with_those_there_are(root: Path) -> None:
    with pytest.raises(VocError, match=r"train\.txt is missing; splits there: \['val'\]"):
        VocFolder(root, "train", CLASSES)


def test_an_empty_split_is_refused(root: Path) -> None:
    (root / "ImageSets/Segmentation/none.txt").write_text("\n")
    with pytest.raises(VocError, match=r"none\.txt lists no images"):
        VocFolder(root, "none", CLASSES)
