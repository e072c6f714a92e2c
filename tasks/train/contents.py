"""Contents: what each sample of a version shows, from one pass over its images and labels.

The pass reads as many bytes as one epoch of the training. A piece of a shard is in memory per
reader, and some bytes per sample stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.store import CorruptShardError, Manifest, ShardReader, Store, StoreError
from infra.store.manifest import ShardSum
from models.duplicates import difference_hash
from models.metrics import IGNORE
from tasks.schemas import origin_of

__all__ = ["Contents", "read_contents"]

_FIELDS = ("image", "label")


@dataclass(frozen=True)
class Contents:
    """`shown` (n, 256) bool: which label ids a sample shows; `hashes` (n,) uint64: its image's."""

    shown: NDArray[np.bool_]
    hashes: NDArray[np.uint64]


def read_contents(store: Store, manifest: Manifest) -> Contents:
    """Return what the samples of a version show, in the order of its shards and their rows.

    Raises `CorruptShardError` for a shard that is not the one that was published or whose bytes
    changed, and `StoreError` for a label id that the version does not name.
    """
    shards = list(zip(manifest.paths, manifest.shards.values(), strict=True))
    with ThreadPoolExecutor(store.place.readers) as pool:
        parts = list(pool.map(lambda shard: _of_shard(store, *shard), shards))
    shown = np.concatenate([part.shown for part in parts])
    _check_named(manifest.version, shown, origin_of(manifest).classes)
    return Contents(shown, np.concatenate([part.hashes for part in parts]))


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


def _check_named(version: str, shown: NDArray[np.bool_], ids: Mapping[str, int]) -> None:
    """Raise `StoreError` for label ids in a version that it does not name."""
    found = set(np.flatnonzero(shown.any(0)).tolist())
    if strange := sorted(found - {0, IGNORE, *ids.values()}):
        named = ", ".join(f"{number} {name}" for name, number in ids.items())
        raise StoreError(
            f"labels of version {version!r} hold id {strange[0]}, but its classes are {named}; "
            "publish it anew with all its classes, or leave it out of train.versions"
        )
