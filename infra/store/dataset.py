"""A published version as a torch dataset, from a folder or a bucket, with as many workers as wanted."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch.utils.data import Dataset

from infra.store.reader import ShardReader
from infra.store.store import Store
from infra.store.versions import read_version

__all__ = ["SegmentationDataset"]


class SegmentationDataset(Dataset[dict[str, Any]]):
    """The samples of a version, in the order of its shards and of their rows, always the same.

    An item is `{"image": uint8 (3, H, W), "label": uint8 (H, W), 255 = ignore, "id": str}`. Pickling carries no open
    connection along: every worker opens the store itself. Use `multiprocessing_context="spawn"`; a forked worker would
    inherit the threads of the S3 client and hang (s3fs #369). Raises `MissingError` for an unknown version and
    `CorruptShardError`, naming the sample, for bytes that changed.
    """

    def __init__(self, url: str, version: str, options: Mapping[str, Any] | None = None) -> None:
        self.store = Store.open(url, options)
        self.manifest = read_version(self.store, version)
        self._paths = self.manifest.paths
        self._ends = list(accumulate(shard.samples for shard in self.manifest.shards.values()))
        self._readers: dict[str, ShardReader] = {}

    def __len__(self) -> int:
        return self.manifest.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in version {self.manifest.version}")
        shard = bisect_right(self._ends, index)
        row = index - (self._ends[shard - 1] if shard else 0)
        reader = self._reader(self._paths[shard])
        sample = reader.sample(row, ("image", "label"))
        image = torch.from_numpy(sample["image"]).permute(2, 0, 1).contiguous()
        return {"image": image, "label": torch.from_numpy(sample["label"]), "id": reader.ids[row]}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def _reader(self, path: str) -> ShardReader:
        if path not in self._readers:
            self._readers[path] = ShardReader(self.store, path)
        return self._readers[path]
