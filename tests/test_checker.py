"""The benchmark's checker finds every planted fault in a bucket, and none in an intact one."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.chaos.checker import Findings, check
from infra.store import Store, publish_version, read_shard, read_version, write_shard
from testbed.plans import write_plan

Shards = dict[str, tuple[dict[str, np.ndarray], pd.DataFrame]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run of six rows and a training that the checker looks at."""
    root = tmp_path_factory.mktemp("reference")
    store = Store.open(str(root))
    draw = np.random.default_rng(1)
    plan = pd.DataFrame({"id": [f"{row:04d}" for row in range(6)], "shard": np.repeat(range(3), 2)})
    write_plan(store, "runs/night/plan.parquet", plan)
    for shard, rows in plan.groupby("shard"):
        arrays = {
            "image": draw.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8),
            "label": draw.integers(0, 3, (2, 8, 8), dtype=np.uint8),
        }
        for path in (f"runs/night/refine/{shard:05d}", f"versions/night-1/data/{shard:05d}-abc"):
            write_shard(store, path, arrays, rows[["id"]])
    paths = [f"versions/night-1/data/{shard:05d}-abc" for shard in range(3)]
    publish_version(
        store, "night-1", shards=paths, meta={}, files={"card.md": b"six samples of noise"}
    )
    store.write_bytes("checkpoints/night-1-abc/weights", b"weights")
    files = {"weights": hashlib.sha256(b"weights").hexdigest()}
    store.write_json("checkpoints/night-1-abc/meta.json", {"files": files})
    store.write_json("champions/00000001.json", {"checkpoint": "night-1-abc"})
    return root


@pytest.fixture
def root(reference: Path, tmp_path: Path) -> Path:
    """A copy to plant a fault in."""
    return Path(shutil.copytree(reference, tmp_path / "store"))


def first(root: Path, pattern: str) -> Path:
    return min(root.glob(pattern))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def published_anew(root: Path, change: Callable[[Shards], None]) -> None:
    """Publish the version again with other content that is consistent in itself."""
    store = Store.open(str(root))
    version = first(root, "versions/*").name
    manifest = read_version(store, version)
    shards: Shards = {Path(path).name: read_shard(store, path) for path in manifest.paths}
    change(shards)
    for folder in ("versions", "publications"):
        shutil.rmtree(root / folder)
    paths = [f"versions/{version}/data/{name}" for name in shards]
    for path, (arrays, table) in zip(paths, shards.values(), strict=True):
        write_shard(store, path, arrays, table)
    publish_version(store, version, shards=paths, meta=manifest.meta)


def kinds(found: Findings) -> set[str]:
    return {name for name, problems in vars(found).items() if problems}


def test_nothing_is_found_in_an_intact_bucket(root: Path, reference: Path) -> None:
    assert check(root, reference).none


def test_a_lost_sample_is_found(root: Path, reference: Path) -> None:
    def drop_last(shards: Shards) -> None:
        name = next(iter(shards))
        arrays, table = shards[name]
        shards[name] = {field: array[:-1] for field, array in arrays.items()}, table.iloc[:-1]

    published_anew(root, drop_last)
    found = check(root, reference)
    assert (kinds(found), len(found.lost)) == ({"lost"}, 1)


def test_without_a_version_all_samples_are_lost(root: Path, reference: Path) -> None:
    first(root, "versions/*/manifest.json").unlink()
    assert "lost" in kinds(check(root, reference))


def test_a_missing_shard_is_lost_unless_it_may_be_left_out(root: Path, reference: Path) -> None:
    first(root, "runs/*/refine/*.json").unlink()
    found = check(root, reference)
    assert (kinds(found), len(found.lost)) == ({"lost"}, 1)
    assert check(root, reference, frozenset({0})).none


def test_a_doubled_sample_is_found(root: Path, reference: Path) -> None:
    def repeat(shards: Shards) -> None:
        name = next(iter(shards))
        shards["99999-again"] = shards[name]

    published_anew(root, repeat)
    assert kinds(check(root, reference)) == {"doubled"}


def test_a_consistent_sample_with_other_content_is_found(root: Path, reference: Path) -> None:
    def change(shards: Shards) -> None:
        arrays, _ = next(iter(shards.values()))
        arrays["label"][0, 0, 0] ^= 1

    published_anew(root, change)
    found = check(root, reference)
    assert (kinds(found), len(found.corrupt)) == ({"corrupt"}, 1)


@pytest.mark.parametrize(
    ("pattern", "at"),
    [
        ("versions/*/data/*.zarr/image/c/0/0/0/0", 100),
        ("versions/*/data/*.zarr/label/c/0/0/0", 20),
        ("versions/*/data/*.zarr/image/zarr.json", 5),
        ("versions/*/data/*.parquet", 50),
        ("versions/*/card-*.md", 10),
        ("runs/*/refine/*.parquet", 50),
    ],
)
def test_a_flipped_bit_is_found(pattern: str, at: int, root: Path, reference: Path) -> None:
    flip(first(root, pattern), at)
    assert kinds(check(root, reference)) & {"corrupt", "lost"}


@pytest.mark.parametrize(
    "pattern",
    [
        "versions/*/data/*.json",
        "versions/*/data/*.zarr/label/zarr.json",
        "versions/*/data/*.parquet",
        "versions/*/card-*.md",
        "publications/*.json",
    ],
)
def test_a_version_with_a_missing_file_is_found(pattern: str, root: Path, reference: Path) -> None:
    first(root, pattern).unlink()
    assert "partial" in kinds(check(root, reference))


def test_a_missing_or_damaged_champion_is_found(root: Path, reference: Path) -> None:
    (root / "checkpoints/night-1-abc/weights").write_bytes(b"others")
    assert kinds(check(root, reference)) == {"corrupt"}
    (root / "champions/00000001.json").unlink()
    assert kinds(check(root, reference)) == {"corrupt", "lost"}


def test_a_manifest_that_is_cut_off_is_found(root: Path, reference: Path) -> None:
    manifest = first(root, "versions/*/manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-10])
    assert "partial" in kinds(check(root, reference))
