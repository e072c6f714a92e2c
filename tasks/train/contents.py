"""Contents: what each sample of a version shows, from one pass over its images and labels.

The pass reads as many bytes as one epoch of the training. A piece of a shard is in memory per
reader; eight bytes per sample, and one per sample and class, stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.store import CorruptShardError, Manifest, ShardReader, Store, StoreError
from infra.store.layout import Layout
from infra.store.manifest import ShardSum
from models.duplicates import difference_hash
from models.metrics import IGNORE
from tasks.schemas import origin_of

__all__ = ["Contents", "read_contents"]

_FIELDS = ("image", "label")


@dataclass(frozen=True)
class Contents:
    """`shown` (n, ids) bool: label ids that a sample shows; `hashes` (n,) uint64: its image's."""

    shown: NDArray[np.bool_]
    hashes: NDArray[np.uint64]


def read_contents(store: Store, manifest: Manifest, table: NDArray[np.uint8], ids: int) -> Contents:
    """Return what the samples of a version show, in the order of its shards and their rows.

    `table` (256,) uint8 translates the label ids of the version into 0, 1, … `ids` - 1 and 255.
    Raises `CorruptShardError` for a shard that is not the one that was published or whose bytes
    changed, and `StoreError` for arrays of another form than image and label, and for a label id
    that the version does not name.
    """

    def of_shard(path: str, published: ShardSum) -> Contents:
        found = _of_shard(store, path, published)
        _check_named(manifest.version, found.shown, origin_of(manifest).classes)
        return Contents(_translated(found.shown, table)[:, :ids].copy(), found.hashes)

    with ThreadPoolExecutor(store.place.readers) as pool:
        parts = list(pool.map(of_shard, manifest.paths, manifest.shards.values()))
    return Contents(
        np.concatenate([part.shown for part in parts]),
        np.concatenate([part.hashes for part in parts]),
    )


def _of_shard(store: Store, path: str, published: ShardSum) -> Contents:
    reader = ShardReader(store, path)
    if ShardSum.of(reader.marker) != published:
        raise CorruptShardError(
            f"{store.url}/{path} is not the shard that was published; `segmint verify` lists all "
            "damage; restore the version, or leave it out of train.versions"
        )
    shown = np.zeros((len(reader), IGNORE + 1), bool)
    hashes = np.zeros(len(reader), np.uint64)
    layouts = reader.layouts(_FIELDS)
    _check_form(path, layouts)
    for start, stop in reader.pieces("image"):
        arrays = {
            name: np.empty((stop - start, *layout.shape[1:]), layout.dtype)
            for name, layout in layouts.items()
        }
        reader.load(start, stop, arrays)
        for row, (image, label) in enumerate(zip(*arrays.values(), strict=True), start):
            shown[row, label.ravel()] = True
            hashes[row] = difference_hash(image)
    return Contents(shown, hashes)


def _translated(shown: NDArray[np.bool_], table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which translated ids (n, 256) samples show, from the ids that they show."""
    found = np.zeros_like(shown)
    for old in np.flatnonzero(shown.any(0)):
        found[:, table[old]] |= shown[:, old]
    return found


def _check_form(path: str, layouts: Mapping[str, Layout]) -> None:
    """Raise `StoreError` unless there are an image (H, W, 3) and a label (H, W), both uint8."""
    image, label = (layouts[name] for name in _FIELDS)
    fits = image.shape == (*label.shape, 3) and len(label.shape) == 3 and all(image.shape[1:])
    if not fits or {image.dtype, label.dtype} != {"uint8"}:
        raise StoreError(
            f"{path}: image {image.dtype} {image.shape[1:]} and label {label.dtype} "
            f"{label.shape[1:]} are not uint8 (H, W, 3) and (H, W); publish the version anew"
        )


def _check_named(version: str, shown: NDArray[np.bool_], ids: Mapping[str, int]) -> None:
    """Raise `StoreError` for label ids in a version that it does not name."""
    found = set(np.flatnonzero(shown.any(0)).tolist())
    if strange := sorted(found - {0, IGNORE, *ids.values()}):
        named = ", ".join(f"{number} {name}" for name, number in ids.items())
        raise StoreError(
            f"labels of version {version!r} hold id {strange[0]}, but its classes are {named}; "
            "publish it anew with all its classes, or leave it out of train.versions"
        )
