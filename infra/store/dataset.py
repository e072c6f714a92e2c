"""Published versions as a torch dataset, from a folder or a bucket, for any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from infra.store.manifest import Manifest, Positions, read_version
from infra.store.reader import ShardReader, read_samples
from infra.store.store import Store

__all__ = ["SegmentationDataset"]

_FIELDS = ("image", "label")


class SegmentationDataset(Dataset[dict[str, Any]]):
    """The samples of a version, always in the order of its shards and their rows.

    Several versions are one set, one after the other. Label ids are those of each sample's own
    version.

    An item is `{"image": uint8 (3, H, W), "label": uint8 (H, W), 255 = ignore, "id": str}`.
    Each worker process opens the store itself; no open connection is pickled. Use
    `multiprocessing_context="spawn"`: a forked worker would inherit the threads of the S3 client
    and hang (s3fs #369).

    Samples in a bucket are fetched one by one, those of a batch in parallel. For repeated epochs
    each process may keep up to `memory` bytes of all versions together: a shard is then fetched
    whole at its first sample, as long as it fits.

    Raises `MissingError` for an unknown version, and `CorruptShardError`, naming the sample, for
    bytes that have changed.
    """

    def __init__(
        self,
        url: str,
        version: str | Sequence[str],
        options: Mapping[str, Any] | None = None,
        *,
        memory: int = 0,
    ) -> None:
        self.store = Store.open(url, options)
        names = [version] if isinstance(version, str) else version
        self.manifests = tuple(read_version(self.store, name) for name in names)
        self._paths = [path for each in self.manifests for path in each.paths]
        shards = [shard for each in self.manifests for shard in each.shards.values()]
        self._positions = Positions(shards)
        self._readers: dict[str, ShardReader] = {}
        # the kernel keeps the files of a folder in memory by itself
        self._memory = memory if "://" in self.store.url else 0
        self._room = self._memory

    @property
    def manifest(self) -> Manifest:
        """The manifest of the version; of several, that of the first one."""
        return self.manifests[0]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return a batch, fetched in parallel. torch's DataLoader calls this."""
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
        """Return the path of the shard that holds a sample, and the sample's index in it."""
        if not 0 <= index < len(self):
            names = " and ".join(each.version for each in self.manifests)
            raise IndexError(f"sample {index} of version {names}, which has {len(self)} samples")
        shard, row = self._positions.find(index)
        return self._paths[shard], row

    def _open(self, paths: Sequence[str]) -> None:
        """Open these shards if they are not open yet, in parallel.

        A batch of a large version may need one shard per sample.
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
