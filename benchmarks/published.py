"""What concurrent publishers publish, and a checker of it that uses none of the store's code.

The checker reads files, and samples with plain zarr.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from benchmarks.claims import CACHE
from infra.store import Store

__all__ = ["SHARDS", "Published", "check", "copied", "labels", "table"]

SHARDS = 2  # of a version
SAMPLES = 3  # of a shard
SIDE = 16  # pixels


@dataclass(frozen=True)
class Published:
    """What a publisher published, and the number that it got; None if another won."""

    version: str
    content: int
    number: int | None


def labels(number: int, content: int, shard: int) -> NDArray[np.uint8]:
    draw = np.random.default_rng([number, content, shard])
    return draw.integers(0, 11, (SAMPLES, SIDE, SIDE), dtype=np.uint8)


def table() -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{row:04d}" for row in range(SAMPLES)]})


def copied(store: Store) -> Path:
    """Copy everything in the store to files."""
    target = Path(tempfile.mkdtemp(dir=CACHE))
    if "://" not in store.url:
        return Path(shutil.copytree(store.url, target / "store"))
    files = fsspec.filesystem("s3", skip_instance_cache=True, **store.options)
    files.get(store.url.removeprefix("s3://"), str(target / "store"), recursive=True)
    return target / "store"


def check(root: Path, results: list[Published]) -> list[str]:
    """Compare the files of a store with its publishers' results; return what is wrong."""
    versions = sorted({one.version for one in results})
    manifests = {version: read_manifest(root, version) for version in versions}
    wrong = [f"{version} is lost" for version, manifest in manifests.items() if not manifest]
    present = {version: manifest for version, manifest in manifests.items() if manifest}
    numbers = sorted(manifest["number"] for manifest in present.values())
    if numbers != list(range(1, len(present) + 1)):
        wrong.append(f"numbers are {numbers}")
    for version, manifest in present.items():
        wrong += check_results(manifest, [one for one in results if one.version == version])
        wrong += check_content(root / "versions" / version, manifest)
    return wrong


def read_manifest(root: Path, version: str) -> dict[str, Any] | None:
    """Return the manifest; None if it does not exist or does not fit its seal."""
    path = root / "versions" / version / "manifest.json"
    body, _, seal = (path.read_bytes() if path.exists() else b"").rpartition(b', "seal": "')
    if hashlib.sha256(body).hexdigest().encode() + b'"}' != seal:
        return None
    manifest: dict[str, Any] = json.loads(body + b"}")
    return manifest


def check_results(manifest: dict[str, Any], results: list[Published]) -> Iterator[str]:
    """Publishers of the published content must have its number, all others none."""
    content, number = manifest["meta"]["content"], manifest["number"]
    for one in results:
        if one.number != (number if one.content == content else None):
            yield f"{one.version} holds content {content} as number {number}, but a result is {one}"


def check_content(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Yield the shards and files that are not what the winner wrote."""
    content, number = manifest["meta"]["content"], int(manifest["version"].split("-")[1])
    for shard in range(SHARDS):
        name = f"{shard:05d}-{content}"
        try:
            group: Any = zarr.open_group(str(folder / "data" / f"{name}.zarr"), mode="r")
            label = np.asarray(group["label"][:])
            ids = pd.read_parquet(folder / "data" / f"{name}.parquet")["id"].tolist()
        except Exception as error:
            yield f"{folder.name}, shard {name}: {type(error).__name__}: {error}"
            continue
        if name not in manifest["shards"] or ids != table()["id"].tolist():
            yield f"{folder.name}: shard {name} is not the one that was published"
        if not np.array_equal(label, labels(number, content, shard)):
            yield f"{folder.name}: samples of shard {name} are not those that were published"
    cards = [(folder / name).read_bytes() for name in manifest["files"] if (folder / name).exists()]
    if cards != [f"content {content}".encode()]:
        yield f"{folder.name}: card is {cards}"
