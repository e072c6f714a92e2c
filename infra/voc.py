"""Reader of folders in the layout of Pascal VOC's segmentation set: photographs with pixel labels.

ROOT/JPEGImages/<stem>.{jpg,jpeg,png}           JPEG or PNG, with any of these suffixes
ROOT/SegmentationClass/<stem>.png               class id per pixel, palette or grey; 255 = ignore
ROOT/ImageSets/Segmentation/<split>.txt         one stem per line
ROOT/classes.txt                                optional: one class name per line, in id order

Symbolic links are followed, since data sets are often made of them. Stems that lead out of the
folder are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.text import UNSEEN

__all__ = ["VocError", "VocFolder", "VocItem", "VocLabels"]

_IGNORE = 255
_SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = ("JPEG", "PNG")  # Pillow has fifty, and starts a program for one of them
# 67 million, more than cameras have; a PNG of a few kB can declare any number
_MOST_PIXELS = 1 << 26


class VocError(ValueError):
    """A file of the folder is missing or wrong. The message has file, value and remedy."""


class VocItem(TypedDict):
    """A photograph (H, W, 3) uint8 RGB, class ids (H, W) uint8 with 255 = ignore, and the stem."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    id: str


class VocLabels:
    """The label maps of one split by index, each at its own size, read on access.

    `classes` are the names of label ids 0, 1, …: from the folder's `classes.txt` if it has one,
    else those given here; `paths` are the files. Raises `VocError` at once if a listed file does
    not exist. Photographs need not exist.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str]) -> None:
        self.stems = _read_stems(root / "ImageSets" / "Segmentation" / f"{split}.txt")
        self.paths = [_find_label(root, stem) for stem in self.stems]
        self.classes = _read_classes(root / "classes.txt") or tuple(classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return class ids (H, W) uint8 with 255 = ignore.

        Raises `VocError` for an unreadable file and an unknown class id.
        """
        path = self.paths[index]
        label = _read_label(path)
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=_IGNORE + 1)[:_IGNORE])
        if present.size and present[-1] >= len(self.classes):
            raise VocError(
                f"{path} holds class id {present[-1]}, but only 0..{len(self.classes) - 1} are "
                f"named ({', '.join(self.classes)}; 255 is ignored); correct it, or name the "
                "folder's classes in classes.txt"
            )
        return label


class VocFolder:
    """The labelled photographs of one split by index, each at its own size, read on access.

    `classes` as in `VocLabels`. Raises `VocError` at once if a listed file does not exist.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str]) -> None:
        self._labels = VocLabels(root, split, classes)
        self._images = [_find_image(root, stem) for stem in self._labels.stems]
        self.classes = self._labels.classes

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> VocItem:
        """Return a photograph with its label.

        Raises `VocError` for an unreadable file, a label of another size than its image, and an
        unknown class id.
        """
        path = self._images[index]
        image = np.asarray(_open(path).convert("RGB"))
        label = self._labels[index]
        if label.shape != image.shape[:2]:
            raise VocError(
                f"{self._labels.paths[index]} is {_size(label)}, but {path} is {_size(image)}; "
                "export the label at its image's size, without interpolation"
            )
        return {"image": image, "label": label, "id": self._labels.stems[index]}

    def __iter__(self) -> Iterator[VocItem]:
        return (self[index] for index in range(len(self)))

    def largest(self) -> tuple[Path, int, int]:
        """Return path, height and width of the image of most pixels, from the files' headers.

        Raises `VocError` for an unreadable header, and for more pixels than are read.
        """
        sizes = ((path, *_open_header(path)) for path in self._images)
        return max(sizes, key=lambda found: found[1] * found[2])


def _read_stems(path: Path) -> list[str]:
    if not path.is_file():
        splits = sorted(other.stem for other in path.parent.glob("*.txt"))
        raise VocError(
            f"{path} is missing; splits there: {splits}; name one of them, or use Pascal VOC's "
            "folder layout"
        )
    if not (stems := _read_text(path).split()):
        raise VocError(f"{path} lists no images; write one stem per line")
    for stem in stems:
        if stem.startswith("/") or ".." in stem.split("/"):
            raise VocError(
                f"{path} lists {stem!r}, which leads out of the folder; "
                "name files below JPEGImages, without their suffix"
            )
    return stems


def _read_classes(path: Path) -> tuple[str, ...]:
    lines = _read_text(path).splitlines() if path.is_file() else []
    classes = tuple(line.strip() for line in lines if line.strip())
    if len(classes) > _IGNORE or len(set(classes)) < len(classes):
        raise VocError(
            f"{path} has {len(classes)} classes, {len(set(classes))} of them different; "
            "name at most 255, each once"
        )
    return classes


def _read_text(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if found := UNSEEN.search("".join(text.split())):
        raise VocError(f"{path} holds {found[0]!a}, which cannot be seen; take it out")
    return text


def _find_image(root: Path, stem: str) -> Path:
    candidates = [root / "JPEGImages" / f"{stem}{suffix}" for suffix in _SUFFIXES]
    found = next((path for path in candidates if _is_file(path)), None)
    if found is None:
        raise VocError(
            f"{candidates[0]} is missing ({', '.join(_SUFFIXES[1:])} as well); "
            "add it, or drop its stem"
        )
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False


def _find_label(root: Path, stem: str) -> Path:
    path = root / "SegmentationClass" / f"{stem}.png"
    if not _is_file(path):
        raise VocError(f"{path} is missing; add it, or drop its stem from the split")
    return path


def _read_label(path: Path) -> NDArray[np.uint8]:
    image = _open(path)
    if image.mode not in ("P", "L"):
        raise VocError(
            f"{path} has mode {image.mode}, not one class id per pixel; "
            "save it as a palette or grey PNG"
        )
    return np.asarray(image)


def _open(path: Path) -> Image.Image:
    with _readable(path):
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixels(image)
            image.verify()  # checksums of all parts, which loading does not check
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            return image


def _open_header(path: Path) -> tuple[int, int]:
    """Return height and width of an image without decoding it."""
    with _readable(path), Image.open(path, formats=_FORMATS) as image:
        _check_pixels(image)
        return image.height, image.width


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {_MOST_PIXELS}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damage leads Pillow's decoders to errors of every kind
        raise VocError(f"{path} is no readable image ({error}); export it again") from error


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]} x {array.shape[0]} pixels"
