"""Pool: versions as one training set, near-duplicates once and drawn evenly or by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from infra.store import Manifest, SegmentationDataset, Store, StoreError
from models.duplicates import near_any
from tasks.schemas import origin_of
from tasks.train.contents import Contents, read_contents
from tasks.train.versions import label_table
from tasks.train.weighting import UNWEIGHTED, Weighting

__all__ = ["Pool", "pool_of"]


class Pool(Dataset[dict[str, Any]]):
    """Chosen samples of several versions, labelled with the class ids of the first.

    `chosen` (n,) are indices into `samples`, `tables` (versions, 256) uint8 the label ids of each
    version under those of the first, and `shares` (n,) how often each sample is drawn, relative to
    the others.
    """

    def __init__(
        self,
        samples: SegmentationDataset,
        chosen: NDArray[np.int64],
        tables: NDArray[np.uint8],
        shares: NDArray[np.float64],
    ) -> None:
        self.shares = shares
        self._samples = samples
        self._chosen = chosen
        self._tables = torch.from_numpy(tables)
        self._ends = np.cumsum([each.samples for each in samples.manifests])

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return a batch, of whatever versions, fetched in parallel."""
        where = self._chosen[list(indices)]
        versions = np.searchsorted(self._ends, where, side="right")
        items = self._samples.__getitems__(where.tolist())
        return [
            {**item, "label": self._tables[version][item["label"].long()]}
            for item, version in zip(items, versions, strict=True)
        ]


def pool_of(
    store: Store,
    manifests: Sequence[Manifest],
    memory: int,
    weighting: Weighting = UNWEIGHTED,
) -> Pool:
    """Return the samples of these versions, the first of which names the classes.

    - Labels are translated by class name (`label_table`). A sample without any pixel left to learn
      from is left out.
    - A sample whose image is nearly that of a sample of an earlier one of `manifests` is left out
      (`models.duplicates`). Within a version nothing is compared: it was selected as a whole.
    - Classes are drawn evenly (`even_shares`), or as `weighting` says.

    Each loading process keeps up to `memory` bytes of all versions together. Raises what
    `read_contents` raises, and `StoreError` if no version shows any class.
    """
    from models.segmenters import even_shares

    versions = [each.version for each in manifests]
    names = [origin_of(each).classes for each in manifests]
    tables = np.stack([label_table(ids, names[0]) for ids in names])
    ids = max(names[0].values()) + 1
    contents = [
        read_contents(store, each, table, ids)
        for each, table in zip(manifests, tables, strict=True)
    ]
    shown = np.concatenate([each.shown for each in contents])
    chosen = np.flatnonzero(shown.any(1) & ~_repeated(contents))
    classes = shown[chosen, 1:]
    if not classes.any():
        raise StoreError(
            f"no sample of {', '.join(versions)} shows any class of {versions[0]!r}; name other "
            "versions in train.versions"
        )
    samples = SegmentationDataset(store.url, versions, store.options, memory=memory)
    by_class, by_sample = _weights(weighting, manifests, names[0])
    return Pool(samples, chosen, tables, even_shares(classes, by_class, by_sample[chosen]))


def _weights(
    weighting: Weighting, manifests: Sequence[Manifest], ids: Mapping[str, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weight of each label id from 1 on, and of each sample of all versions."""
    by_class = np.ones(max(ids.values()))
    for name, weight in weighting.classes.items():
        by_class[ids[name] - 1] = weight
    by_version = [weighting.versions.get(each.version, 1.0) for each in manifests]
    return by_class, np.repeat(by_version, [each.samples for each in manifests])


def _repeated(contents: Sequence[Contents]) -> NDArray[np.bool_]:
    """Return which samples of all versions repeat one of an earlier version."""
    seen = np.zeros(0, np.uint64)
    found = []
    for each in contents:
        found.append(near_any(each.hashes, seen))
        seen = np.concatenate([seen, each.hashes])
    return np.concatenate(found)
