"""Sources: label maps by number, from a published version or a folder in VOC layout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.settings import SettingsError
from infra.store import (
    CorruptShardError,
    MissingError,
    ShardReader,
    Store,
    StoreError,
    read_marker,
    read_version,
)
from infra.store.manifest import Positions, ShardSum
from infra.voc import VocLabels
from tasks.schemas import origin_of
from tasks.train.train import class_names

__all__ = ["FolderMaps", "LabelMap", "MapSource", "VersionMaps", "open_source"]

_SPLIT = "train"  # of a folder, as `train.real` reads it: `val` is for evaluations


class LabelMap(NamedTuple):
    """Label ids (H, W) uint8, 255 = ignored, and instance ids (H, W) uint8 if there are any."""

    label: NDArray[np.uint8]
    instance: NDArray[np.uint8] | None = None


class MapSource(Protocol):
    """Label maps by number."""

    @property
    def digest(self) -> str:
        """SHA-256 of their contents."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label id 0, 1, …"""
        ...

    @property
    def has_instances(self) -> bool:
        """Whether any map has instance ids."""
        ...

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return the name of a label map, for errors and listings."""
        ...

    def read(self, number: int) -> LabelMap:
        """Return a label map at its own size."""
        ...


class VersionMaps:
    """The labels of a published version, in the order of its shards and their rows.

    Raises `MissingError` for a version that is not published, and `StoreError` for a damaged one.
    """

    def __init__(self, store: Store, version: str) -> None:
        manifest = read_version(store, version)
        self.digest = manifest.digest
        self.classes = class_names(origin_of(manifest).classes)
        self._store = store
        self._shards = list(zip(manifest.paths, manifest.shards.values(), strict=True))
        self._positions = Positions(manifest.shards.values())
        self._reader = cache(self._open)

    def __len__(self) -> int:
        return len(self._positions)

    @cached_property
    def has_instances(self) -> bool:
        """Whether a shard has instance maps; reads the markers of all."""
        with ThreadPoolExecutor(self._store.place.readers) as pool:
            markers = pool.map(lambda shard: read_marker(self._store, shard[0]), self._shards)
            return any("instance" in marker.fields for marker in markers if marker)

    def name(self, number: int) -> str:
        """Return shard and id of a sample; raises what opening its shard raises."""
        reader, index = self._where(number)
        return f"{reader.path}, sample {reader.ids[index]}"

    def read(self, number: int) -> LabelMap:
        """Return the label of a sample, and its instances if its shard has them.

        Raises `CorruptShardError` for a shard that is not the one that was published or whose bytes
        changed, and `StoreError` for maps that are not uint8 (H, W).
        """
        reader, index = self._where(number)
        fields = [name for name in ("label", "instance") if name in reader.fields]
        return LabelMap(**reader.sample(index, fields))

    def _where(self, number: int) -> tuple[ShardReader, int]:
        shard, index = self._positions.find(number)
        return self._reader(shard), index

    def _open(self, shard: int) -> ShardReader:
        path, published = self._shards[shard]
        reader = ShardReader(self._store, path)
        if ShardSum.of(reader.marker) != published:
            raise CorruptShardError(
                f"{self._store.url}/{path} is not the shard that was published; `segmint verify` "
                "lists all damage; restore the version, or name another in generator.labels"
            )
        maps = [reader.marker.fields.get(name) for name in ("label", "instance")]
        if maps[0] is None or any(m and (m.dtype, len(m.shape)) != ("uint8", 3) for m in maps):
            raise StoreError(
                f"{self._store.url}/{path} has no label maps (H, W) uint8; publish the version "
                "anew, or name another in generator.labels"
            )
        return reader


class FolderMaps:
    """The label maps of the split `train` of a folder in VOC layout.

    `classes` are the names of label ids 0, 1, … unless the folder has a `classes.txt`. Raises
    `VocError` for files that are missing or wrong.
    """

    has_instances = False

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._labels = VocLabels(folder, _SPLIT, classes)
        self.classes = self._labels.classes

    def __len__(self) -> int:
        return len(self._labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files' contents in their order; reads all of them."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for path in self._labels.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def name(self, number: int) -> str:
        """Return the path of a label map."""
        return str(self._labels.paths[number])

    def read(self, number: int) -> LabelMap:
        """Return a label map."""
        return LabelMap(self._labels[number])


def open_source(store: Store, given: str, classes: tuple[str, ...]) -> MapSource:
    """Return the label maps that `generator.labels` names: with a / a folder, else a version.

    Raises `SettingsError` for a version that is not published and for other classes than `classes`,
    those of the vocabulary, `VocError` for a folder, and `StoreError` for a version that cannot be
    read.
    """
    source: MapSource
    if "/" in given:
        source = FolderMaps(Path(given), classes)
    else:
        try:
            source = VersionMaps(store, given)
        except MissingError as error:
            raise SettingsError(
                f"generator.labels: {error}; name one of them, or a folder with a /, such as "
                f"./{given}"
            ) from error
    if source.classes != classes:
        raise SettingsError(
            f"generator.labels = {given!r} has the classes {', '.join(source.classes)}, and the "
            f"vocabulary has {', '.join(classes)}; set vocabulary and classes to those of the "
            "label maps, or give label maps of these classes"
        )
    return source
