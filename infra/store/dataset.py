"""A published version as a torch dataset, from a folder or a bucket, with as many workers as
wanted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from infra.store.manifest import read_version
from infra.store.reader import ShardReader, read_samples
from infra.store.store import Store

__all__ = ["SegmentationDataset"]

_FIELDS = ("image", "label")


class SegmentationDataset(Dataset[dict[str, Any]]):
    """The samples of a version, in the order of its shards and of their rows, always the same.

    An item is `{"image": uint8 (3, H, W), "label": uint8 (H, W), 255 = ignore, "id": str}`.
    Pickling carries no open connection along: every worker opens the store itself. Use
    `multiprocessing_context="spawn"`; a forked worker would inherit the threads of the S3 client
    and hang (s3fs #369).

    A bucket's samples are fetched alone, those of a batch at once. Where all are read again and
    again, each process may keep up to `memory` bytes: shards are then fetched whole when first
    asked for a sample, until the next has no room.

    Raises `MissingError` for an unknown version and `CorruptShardError`, naming the sample, for
    bytes that changed.
    """

    def __init__(
        self, url: str, version: str, options: Mapping[str, Any] | None = None, *, memory: int = 0
    ) -> None:
        self.store = Store.open(url, options)
        self.manifest = read_version(self.store, version)
        self._paths = self.manifest.paths
        self._ends = list(accumulate(shard.samples for shard in self.manifest.shards.values()))
        self._readers: dict[str, ShardReader] = {}
        self._memory = self._room = (
            memory if "://" in self.store.url else 0
        )  # a folder's are kept by the kernel

    def __len__(self) -> int:
        return self.manifest.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return a batch, fetched at once; torch's loader asks for it so."""
        where = [self._where(index) for index in indices]
        self._open([path for path, _ in where])
        chosen = [(self._readers[path], row) for path, row in where]
        samples = read_samples(chosen, _FIELDS)
        return [
            _item(sample, reader.ids[row])
            for sample, (reader, row) in zip(samples, chosen, strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_room": self._memory}

    def _where(self, index: int) -> tuple[str, int]:
        """Path of the shard that holds a sample, and the sample's place in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in version {self.manifest.version}")
        shard = bisect_right(self._ends, index)
        return self._paths[shard], index - (self._ends[shard - 1] if shard else 0)

    def _open(self, paths: Sequence[str]) -> None:
        """Open these shards, at once as far as they are new: a batch of a large version meets as
        many as it has.
        """
        new = [path for path in dict.fromkeys(paths) if path not in self._readers]
        if len(new) > 1:
            with ThreadPoolExecutor(self.store.place.readers) as pool:
                opened = list(pool.map(lambda path: ShardReader(self.store, path), new))
        else:
            opened = [ShardReader(self.store, path) for path in new]
        for path, reader in zip(new, opened, strict=True):
            self._readers[path] = reader
            if reader.stored_bytes(_FIELDS) <= self._room:
                reader.keep(_FIELDS)
                self._room -= reader.stored_bytes(_FIELDS)


def _item(sample: Mapping[str, NDArray[Any]], name: str) -> dict[str, Any]:
    image = torch.from_numpy(sample["image"]).permute(2, 0, 1).contiguous()
    return {"image": image, "label": torch.from_numpy(sample["label"]), "id": name}
