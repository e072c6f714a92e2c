"""Reads any folder laid out as Pascal VOC's segmentation set is: a user's own photographs with pixel labels.

ROOT/JPEGImages/<stem>.{jpg,jpeg,png}           any readable image
ROOT/SegmentationClass/<stem>.png               class id a pixel, as palette or grey PNG; 255 = ignore
ROOT/ImageSets/Segmentation/<split>.txt         one stem a line
ROOT/classes.txt                                optional: one class name a line, in id order
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["VocError", "VocFolder", "VocItem"]

_IGNORE = 255
_SUFFIXES = (".jpg", ".jpeg", ".png")


class VocError(ValueError):
    """A file of the folder is missing or wrong; the message names the file, the value and the remedy."""


class VocItem(TypedDict):
    """One photograph (H, W, 3) uint8 RGB, its class ids (H, W) uint8 with 255 = ignore, and its stem."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    id: str


class VocFolder:
    """The labelled photographs of one split by position, each at its own size; read when asked for.

    `classes` are the names of label ids 0, 1, …: the folder's own `classes.txt` if it has one, else those given here.
    That every listed file is there is checked at once. Raises `VocError` if one is not.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str]) -> None:
        stems = _read_stems(root / "ImageSets" / "Segmentation" / f"{split}.txt")
        self._files = [(stem, _find_image(root, stem), _find_label(root, stem)) for stem in stems]
        self.classes = _read_classes(root / "classes.txt") or tuple(classes)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> VocItem:
        """Raises `VocError` for an unreadable file, a label of another size than its image, or an unknown id."""
        stem, image_path, label_path = self._files[index]
        image, label = np.asarray(_open(image_path).convert("RGB")), _read_label(label_path)
        if label.shape != image.shape[:2]:
            raise VocError(
                f"{label_path} is {_size(label)}, but {image_path} is {_size(image)}; "
                "export the label at its image's size, without interpolation"
            )
        self._check_ids(label_path, label)
        return {"image": image, "label": label, "id": stem}

    def __iter__(self) -> Iterator[VocItem]:
        return (self[index] for index in range(len(self)))

    def _check_ids(self, path: Path, label: NDArray[np.uint8]) -> None:
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=_IGNORE + 1)[:_IGNORE])
        if present.size and present[-1] >= len(self.classes):
            raise VocError(
                f"{path} holds class id {present[-1]}, but only 0..{len(self.classes) - 1} are named "
                f"({', '.join(self.classes)}; 255 is ignored); correct it, or name the folder's classes in classes.txt"
            )


def _read_stems(path: Path) -> list[str]:
    if not path.is_file():
        splits = sorted(other.stem for other in path.parent.glob("*.txt"))
        raise VocError(f"{path} is missing; splits there: {splits}; name one, or lay the folder out as Pascal VOC is")
    if not (stems := path.read_text("utf-8").split()):
        raise VocError(f"{path} lists no images; write one stem a line")
    return stems


def _read_classes(path: Path) -> tuple[str, ...]:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return tuple(line.strip() for line in lines if line.strip())


def _find_image(root: Path, stem: str) -> Path:
    candidates = [root / "JPEGImages" / f"{stem}{suffix}" for suffix in _SUFFIXES]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise VocError(f"{candidates[0]} is missing ({', '.join(_SUFFIXES[1:])} as well); add it, or drop its stem")
    return found


def _find_label(root: Path, stem: str) -> Path:
    path = root / "SegmentationClass" / f"{stem}.png"
    if not path.is_file():
        raise VocError(f"{path} is missing; add it, or drop its stem from the split")
    return path


def _read_label(path: Path) -> NDArray[np.uint8]:
    picture = _open(path)
    if picture.mode not in ("P", "L"):
        raise VocError(f"{path} has mode {picture.mode}, not one class id a pixel; save it as a palette or grey PNG")
    return np.asarray(picture)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (UnidentifiedImageError, OSError) as error:
        raise VocError(f"{path} is no readable image ({error}); export it again") from error


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]} x {array.shape[0]} pixels"
