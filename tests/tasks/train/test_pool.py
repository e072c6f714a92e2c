"""Several versions as one training set."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from infra.store import (
    CorruptShardError,
    SegmentationDataset,
    Store,
    StoreError,
    publish_version,
    read_version,
    write_shard,
)
from tasks.train.pool import Pool, pool_of
from tasks.train.weighting import UNWEIGHTED, Weighting
from testbed.swift import Bucket
from tests.models.test_segmenters import Squares
from tests.tasks.segmenting import publish_squares


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def pooled(
    store: Store, *versions: str, memory: int = 0, weighting: Weighting = UNWEIGHTED
) -> Pool:
    return pool_of(store, [read_version(store, name) for name in versions], memory, weighting)


def squares(pool: Pool) -> list[int]:
    """Return the numbers of the squares in a pool."""
    return [int(item["id"].split()[1]) for item in pool.__getitems__(range(len(pool)))]


def test_the_samples_of_all_versions_are_there_with_the_labels_of_the_first(store: Store) -> None:
    publish_squares(store, "old", count=6, classes={"bus": 1, "car": 2})
    publish_squares(store, "new", count=4, first=6)
    pool = pooled(store, "new", "old")
    assert squares(pool) == [6, 8, 7, 9, 0, 2, 4, 1, 3, 5]
    for index, number in enumerate(squares(pool)):
        item, square = pool[index], Squares()[number]
        exchanged = torch.tensor([0, 2, 1, *range(3, 256)])[square["label"].long()]
        label = square["label"] if number > 5 else exchanged.to(torch.uint8)
        assert torch.equal(item["image"], square["image"]) and torch.equal(item["label"], label)
        assert item["label"].dtype == torch.uint8


def test_images_that_several_nights_made_count_once_and_keep_the_newest_label(store: Store) -> None:
    publish_squares(store, "old", count=8)
    publish_squares(store, "new", count=4, first=4, classes={"bus": 1, "car": 2})
    assert sorted(squares(pooled(store, "new", "old"))) == list(range(8))
    newest = SegmentationDataset(store.url, "new")
    pool = pooled(store, "new", "old")
    for index in range(4):
        assert torch.equal(pool[index]["label"], newest[index]["label"])


def test_samples_with_nothing_left_to_learn_are_left_out(store: Store) -> None:
    publish_squares(store, "old", count=6, classes={"car": 1, "van": 2})
    publish_squares(store, "new", count=2, first=6)
    pool = pooled(store, "new", "old")
    assert squares(pool) == [6, 7, 0, 2, 4]  # buses were vans, and their background may hide buses
    assert set(pool[2]["label"].unique().tolist()) == {1, 255}


def test_classes_are_drawn_evenly_over_all_versions(store: Store) -> None:
    publish_squares(store, "old", count=6, classes={"car": 1, "van": 2})
    publish_squares(store, "new", count=2, first=6)
    pool = pooled(store, "new", "old")
    cars = np.array([number % 2 == 0 for number in squares(pool)])
    assert pool.shares[cars].sum() == pytest.approx(pool.shares[~cars].sum())


def test_a_shard_of_which_nothing_was_kept_is_no_damage(store: Store) -> None:
    shards = ["versions/old/data/00000", "versions/old/data/00001"]
    for count, path in zip((0, 1), shards, strict=True):
        item = Squares()[0]
        image = item["image"].permute(1, 2, 0).numpy()[None].repeat(count, axis=0)
        label = item["label"].numpy()[None].repeat(count, axis=0)
        rows = pd.DataFrame({"id": ["square 0"] * count})
        write_shard(store, path, {"image": image, "label": label}, rows)
    meta = {"run": "nightly", "classes": {"car": 1, "bus": 2}}
    publish_version(store, "old", shards=shards, meta=meta)
    publish_squares(store, "new", count=2, first=1)
    assert len(pooled(store, "new", "old")) == 3


def test_versions_and_classes_are_drawn_by_their_weights(store: Store) -> None:
    publish_squares(store, "old", count=8)
    publish_squares(store, "new", count=4, first=8)
    pool = pooled(store, "new", "old", weighting=Weighting({"old": 2.0}, {"bus": 3.0}))
    shares = dict(zip(squares(pool), pool.shares, strict=True))
    cars, buses = (sum(shares[number] for number in range(odd, 12, 2)) for odd in (0, 1))
    assert buses == pytest.approx(3 * cars)
    assert shares[0] == pytest.approx(2 * shares[8]) and shares[1] == pytest.approx(2 * shares[9])


def test_a_single_version_can_be_drawn_by_class(store: Store) -> None:
    publish_squares(store, "new", count=4)
    pool = pooled(store, "new", weighting=Weighting(classes={"car": 2.0}))
    assert pool.shares == pytest.approx([4 / 3, 4 / 3, 2 / 3, 2 / 3])


def test_a_bucket_gives_the_same_in_parallel_within_one_budget_of_memory(
    store: Store, bucket: Bucket
) -> None:
    far = Store.open(bucket.url, bucket.options)
    for each in (store, far):
        publish_squares(each, "old", count=6)
        publish_squares(each, "new", count=4, first=4)
    near = pooled(store, "new", "old")
    one_shard = 3 * 64 * 64 * 4  # some of the four
    for pool in (pooled(far, "new", "old"), pooled(far, "new", "old", memory=one_shard)):
        assert pool.shares.tolist() == near.shares.tolist()
        for item, other in zip(
            pool.__getitems__([7, 0, 3]), near.__getitems__([7, 0, 3]), strict=True
        ):
            assert item["id"] == other["id"] and torch.equal(item["image"], other["image"])
    again: Pool = pickle.loads(pickle.dumps(pooled(far, "new", "old")))
    assert torch.equal(again[5]["label"], near[5]["label"])


def test_a_shard_that_was_exchanged_is_refused(store: Store) -> None:
    publish_squares(store, "old", count=4)
    publish_squares(store, "new", count=4, first=4)
    for suffix in (".json", ".parquet", ".zarr/image/c/0/0/0/0", ".zarr/label/c/0/0/0"):
        path = f"versions/old/data/00000{suffix}"
        store.place.put(path, [store.read_bytes(path.replace("/old/", "/new/"))])
    with pytest.raises(CorruptShardError, match="old/data/00000 is not the shard that was publish"):
        pooled(store, "new", "old")


def test_changed_pixels_are_refused_before_the_training(store: Store) -> None:
    publish_squares(store, "old", count=4)
    publish_squares(store, "new", count=4, first=4)
    path = Path(store.url, "versions/old/data/00001.zarr/image/c/0/0/0/0")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptShardError, match="its checksum differs"):
        pooled(store, "new", "old")


def test_a_label_that_a_version_does_not_name_is_refused(store: Store) -> None:
    publish_squares(store, "old", count=4, classes={"car": 1})
    publish_squares(store, "new", count=4, first=4)
    with pytest.raises(StoreError, match="labels of version 'old' hold id 2, but its classes are"):
        pooled(store, "new", "old")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (np.zeros((1, 16, 16, 4), np.uint8), np.zeros((1, 16, 16), np.uint8)),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 8), np.uint8)),
        (np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 16, 16), np.uint8)),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16), np.int64)),
    ],
)
def test_arrays_of_another_form_are_refused(
    store: Store, image: NDArray[Any], label: NDArray[Any]
) -> None:
    publish_squares(store, "new", count=2)
    path = "versions/raw/data/00000"
    write_shard(store, path, {"image": image, "label": label}, pd.DataFrame({"id": ["a"]}))
    publish_version(store, "raw", shards=[path], meta={"run": "a", "classes": {"car": 1}})
    with pytest.raises(StoreError, match=r"are not uint8 \(H, W, 3\) and \(H, W\)"):
        pooled(store, "new", "raw")


def test_versions_that_show_nothing_are_refused(store: Store) -> None:
    for number, name in enumerate(("old", "new")):
        path = f"versions/{name}/data/00000"
        image = np.full((1, 16, 16, 3), 100 * number, np.uint8)
        label = np.zeros((1, 16, 16), np.uint8)
        write_shard(store, path, {"image": image, "label": label}, pd.DataFrame({"id": ["a"]}))
        publish_version(store, name, shards=[path], meta={"run": "a", "classes": {"car": 1}})
    with pytest.raises(StoreError, match="no sample of new, old shows any class of 'new'"):
        pooled(store, "new", "old")
