"""A published version as a torch dataset: the same samples in the same order, with workers, from
folder and bucket.
"""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infra.store import (
    CorruptShardError,
    MissingError,
    SegmentationDataset,
    Store,
    publish_version,
    write_shard,
)
from testbed.swift import Bucket
from tests.infra.conftest import Samples

COUNTS = (3, 1, 5)


@pytest.fixture
def dataset(any_store: Store, samples: Samples) -> SegmentationDataset:
    return published(any_store, samples)


def published(store: Store, samples: Samples) -> SegmentationDataset:
    paths = [f"versions/v1/data/{number:05d}" for number in range(len(COUNTS))]
    for number, path in enumerate(paths):
        write_shard(store, path, *samples(COUNTS[number], seed=number))
    publish_version(store, "v1", shards=paths, meta={})
    return SegmentationDataset(store.url, "v1", store.options)


def test_items_are_the_samples_in_the_order_of_shards_and_rows(
    dataset: SegmentationDataset, samples: Samples
) -> None:
    made = [samples(count, seed=number) for number, count in enumerate(COUNTS)]
    images = np.concatenate([arrays["image"] for arrays, _ in made])
    labels = np.concatenate([arrays["label"] for arrays, _ in made])
    ids = [name for _, table in made for name in table["id"]]
    assert len(dataset) == len(ids) == 9
    for index, item in enumerate(cast(Iterable[dict[str, Any]], dataset)):
        assert item["id"] == ids[index]
        assert (item["image"].dtype, item["label"].dtype) == (torch.uint8, torch.uint8)
        assert item["image"].is_contiguous()
        assert (item["image"].numpy() == images[index].transpose(2, 0, 1)).all()
        assert (item["label"].numpy() == labels[index]).all()
    with pytest.raises(IndexError, match="sample 9 of version v1, which has 9 samples"):
        dataset[9]


def test_a_batch_fetched_at_once_and_shards_kept_in_memory_give_the_same_items(
    bucket: Bucket, samples: Samples
) -> None:
    plain = published(Store.open(bucket.url, bucket.options), samples)
    shard = plain[0]["image"].nbytes * max(COUNTS) * 2  # room for some of the shards
    for dataset in (
        plain,
        SegmentationDataset(plain.store.url, "v1", bucket.options, memory=shard),
    ):
        order = [8, 0, 3, 4, 0, 7]
        for item, index in zip(dataset.__getitems__(order), order, strict=True):
            assert item["id"] == plain[index]["id"]
            assert torch.equal(item["image"], plain[index]["image"])
            assert torch.equal(item["label"], plain[index]["label"])


def test_what_is_kept_in_memory_is_not_fetched_again(bucket: Bucket, samples: Samples) -> None:
    store = published(Store.open(bucket.url, bucket.options), samples).store
    first, second = (
        SegmentationDataset(store.url, "v1", bucket.options, memory=room) for room in (1 << 20, 0)
    )
    kept, fetched = first[8], second[8]
    store.delete("versions/v1/data")
    assert torch.equal(first[8]["image"], kept["image"])
    assert first[4]["id"] == "00020000"  # of the same shard
    with pytest.raises(CorruptShardError, match="although the shard was finished"):
        second[8]
    assert torch.equal(kept["image"], fetched["image"])


@pytest.mark.slow
def test_spawned_workers_read_the_same_in_the_same_order(dataset: SegmentationDataset) -> None:
    direct = list(
        DataLoader(dataset, batch_size=2)
    )  # also opens the store here before the workers do
    workers = list(
        DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="spawn")
    )
    assert len(direct) == len(workers) == 5
    for one, other in zip(direct, workers, strict=True):
        assert one["id"] == other["id"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])


def test_pickling_carries_no_open_reader_along(store: Store, samples: Samples) -> None:
    dataset = published(store, samples)
    closed = len(pickle.dumps(dataset))
    first = dataset[0]
    assert len(pickle.dumps(dataset)) == closed
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0]["image"], first["image"])


def test_a_changed_sample_is_named_and_the_others_are_still_read(
    store: Store, samples: Samples
) -> None:
    dataset = published(store, samples)
    path = Path(store.url, "versions/v1/data/00002.zarr/image/c/0/0/0/0")
    data = bytearray(path.read_bytes())
    data[16 * 16 * 3 * 2 + 7] ^= 1
    path.write_bytes(data)
    assert dataset[5]["id"] == "00020001"
    with pytest.raises(
        CorruptShardError, match=r"data/00002: sample 2 \(00020002\), field 'image'"
    ):
        dataset[6]


def test_an_unpublished_version_is_no_dataset(store: Store, samples: Samples) -> None:
    write_shard(store, "versions/v1/data/00000", *samples())
    with pytest.raises(MissingError, match="no version 'v1' is published"):
        SegmentationDataset(store.url, "v1")
