"""Overlap: no photograph may be both trained on and measured on.

Photographs are compared by the SHA-256 of their decoded pixels, not of their files: a photograph
under another name, with other metadata or as another lossless file is found too. One that was
resized or compressed again is not.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.settings import Settings, SettingsError
from infra.voc import VocFolder

__all__ = ["check_disjoint", "shared_photographs"]

_SHOWN = 5  # pairs that an error lists


def shared_photographs(first: VocFolder, second: VocFolder) -> list[tuple[str, str]]:
    """Return the stems of each photograph that both folders hold, in the order of `second`.

    Every image and label is read, on all cores: about 6 ms of one core for an image of 500x375
    pixels. Raises `VocError` for one that cannot be read.
    """
    stems = {digest: stem for stem, digest in _digests(first)}
    return [(stems[digest], stem) for stem, digest in _digests(second) if digest in stems]


def _digests(folder: VocFolder) -> list[tuple[str, str]]:
    """Return stem and SHA-256 of size and pixels of each photograph."""

    def digest(index: int) -> tuple[str, str]:
        item = folder[index]
        found = hashlib.sha256(json.dumps(item["image"].shape).encode())
        found.update(item["image"].tobytes())
        return item["id"], found.hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(digest, range(len(folder))))


def check_disjoint(settings: Settings) -> None:
    """Raise `SettingsError` if a photograph of `train.real` is one of `evaluate.voc` too.

    Drawn scenes need no check: those of trainings and of evaluations have other seeds.
    """
    trained = settings.train.protocol != "synthetic" and settings.train.real != "drawn"
    if not trained or settings.evaluate.voc is None:
        return
    names = [entry.name for entry in settings.load_vocabulary().classes]
    real = Path(settings.train.real)
    held_out = Path(settings.evaluate.voc)
    shared = shared_photographs(VocFolder(real, "train", names), VocFolder(held_out, "val", names))
    if shared:
        images = (real / "JPEGImages", held_out / "JPEGImages")
        pairs = [f"{images[0] / one} = {images[1] / other}" for one, other in shared[:_SHOWN]]
        more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise SettingsError(
            f"{len(shared)} photographs of train.real are in evaluate.voc too: "
            f"{', '.join(pairs)}{more}; take their stems out of one of the splits, "
            f"{real / 'ImageSets/Segmentation/train.txt'} or "
            f"{held_out / 'ImageSets/Segmentation/val.txt'}"
        )
