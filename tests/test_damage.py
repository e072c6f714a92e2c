"""Byte damage: a reader of a damaged file returns the true content or raises an error that names
the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

from infra.store import (
    Store,
    StoreError,
    publish_version,
    read_shard,
    read_version,
    verify_version,
    write_shard,
)
from infra.voc import VocError, VocFolder
from models.masks import AffinityNet
from models.segmenters import build_segmenter, pack_segmenter
from tasks.refine.affinity import read_affinity
from tasks.train.checkpoints import _sha256, load_checkpoint, snapshots_in
from testbed.inputs import small_voc
from tests.malformed import file
from tests.malformed.stored import store_of
from tests.models.test_segmenters import TINY

SHARD = "versions/v1/data/00000"
FLIPS = 40  # bytes of each file in which one bit is changed; it is cut at the same bytes


def damages(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the file with one bit changed, and cut short, at random bytes and at both ends."""
    rng = np.random.default_rng(seed)
    ends = [*range(min(8, len(content))), *range(max(0, len(content) - 8), len(content))]
    for position in sorted({*rng.integers(len(content), size=FLIPS).tolist(), *ends}):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        yield f"bit of byte {position}", bytes(flipped)
        yield f"cut at byte {position}", content[:position]


def check(path: Path, read: Callable[[], Any], errors: type[Exception], words: str) -> None:
    """Damage the file in every way: `read` must return the same as before, or raise one of `errors`
    with `words` in the message.
    """
    content = path.read_bytes()
    true = read()
    refused = 0
    for what, damaged in damages(content, len(content)):
        path.write_bytes(damaged)
        try:
            assert read() == true, f"{path.name}, {what}: other content"
        except errors as error:
            assert words in str(error), f"{path.name}, {what}: {error}"
            refused += 1
    path.write_bytes(content)
    assert read() == true and refused


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A published version of one shard."""
    store = store_of(tmp_path)
    rng = np.random.default_rng(0)
    label = np.zeros((4, 32, 32), np.uint8)
    label[:, :9, :7] = rng.integers(1, 9, (4, 9, 7))
    image = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    table = pd.DataFrame(
        {"id": list("abcd"), "row": range(4), "classes": [["car"]] * 4, "score": rng.random(4)}
    )
    write_shard(store, SHARD, {"label": label, "image": image}, table, {"kept": 4})
    publish_version(store, "v1", shards=[SHARD], meta={"run": "nightly", "classes": {"car": 1}})
    return store


def whole(store: Store) -> Any:
    """Return all that a shard holds, in a form that can be compared."""
    arrays, table = read_shard(store, SHARD)
    return {name: array.tolist() for name, array in arrays.items()}, table.to_dict("list")


@pytest.mark.parametrize(
    "suffix", [".json", ".parquet", ".zarr/label/c/0/0/0", ".zarr/image/c/0/0/0/0"]
)
def test_a_damaged_shard_is_read_as_it_was_or_named(store: Store, suffix: str) -> None:
    check(Path(store.url, SHARD + suffix), lambda: whole(store), StoreError, "00000")


@pytest.mark.parametrize("suffix", [".zarr/zarr.json", ".zarr/label/zarr.json"])
def test_damaged_zarr_metadata_is_not_used_and_is_named(store: Store, suffix: str) -> None:
    path = Path(store.url, SHARD + suffix)
    true = whole(store)
    content = path.read_bytes()
    for what, damaged in damages(content, 0):
        path.write_bytes(damaged)
        assert whole(store) == true, what
        assert [problem.path for problem in verify_version(store, "v1")] == [SHARD + suffix], what


def test_a_damaged_manifest_is_read_as_it_was_or_named(store: Store) -> None:
    path = Path(store.url, "versions/v1/manifest.json")
    check(path, lambda: read_version(store, "v1"), StoreError, "versions/v1/manifest.json")


def test_a_damaged_plan_is_read_as_it_was_or_named(store: Store) -> None:
    rows = range(300)
    table = {
        "row": rows,
        "id": [f"{row:08d}" for row in rows],
        "classes": [["car", "tree"][: row % 3] for row in rows],
    }
    store.write_table("runs/nightly/plan.parquet", pd.DataFrame(table))
    path = Path(store.url, "runs/nightly/plan.parquet")
    check(
        path,
        lambda: store.read_table("runs/nightly/plan.parquet").to_dict("list"),
        StoreError,
        "plan.parquet",
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_a_damaged_checkpoint_is_read_as_it_was_or_named(
    store: Store, tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    files = pack_segmenter(
        build_segmenter(str(file(tmp_path / "tiny.py", TINY)), ("background", "car"))
    )
    for each, content in files.items():
        store.write_bytes(f"checkpoints/c/{each}", content)
    sums = {each: _sha256(content) for each, content in files.items()}
    meta = {
        "checkpoint": "c",
        "version": "v1",
        "manifest": "",
        "files": sums,
        "classes": ["background", "car"],
    }
    store.write_json("checkpoints/c/meta.json", meta)
    check(
        Path(store.url, "checkpoints/c", name),
        lambda: pack_segmenter(load_checkpoint(store, "c")),
        StoreError,
        name,
    )


def test_a_damaged_affinity_network_is_read_as_it_was_or_named(store: Store) -> None:
    from infra.store.seal import seal_tensors

    content = safetensors.torch.save(AffinityNet().state_dict())
    store.write_bytes("runs/nightly/affinity.safetensors", seal_tensors(content))
    path = Path(store.url, "runs/nightly/affinity.safetensors")

    def read() -> bytes:
        return safetensors.torch.save(read_affinity(store, "nightly").state_dict())

    assert read() == content
    check(path, read, StoreError, "affinity.safetensors")


def test_a_damaged_snapshot_is_read_as_it_was_or_named(store: Store) -> None:
    path = "checkpoints/c/snapshot.safetensors"
    snapshots = snapshots_in(store, "checkpoints/c")
    snapshots.write(
        safetensors.torch.save(
            {"a": torch.arange(64.0), "notes": torch.zeros(8, dtype=torch.uint8)}
        )
    )

    def read() -> Any:
        return {
            name: tensor.tolist()
            for name, tensor in safetensors.torch.load(snapshots.read() or b"").items()
        }

    check(Path(store.url, path), read, StoreError, "snapshot.safetensors")


def test_a_damaged_label_is_read_as_it_was_or_named(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 3, (24, 32), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG")
    folder = small_voc(tmp_path)
    Image.new("RGB", (32, 24), (9, 9, 9)).save(folder / "JPEGImages" / "a.jpg")
    path = file(folder / "SegmentationClass/a.png", buffer.getvalue())
    check(
        path,
        lambda: VocFolder(folder, "val", ["background", "car", "tree"])[0]["label"].tolist(),
        VocError,
        "a.png",
    )
