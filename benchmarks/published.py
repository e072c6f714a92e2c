"""What racing publishers publish, and a checker of it that knows the layout of a store and none of
its code.

It reads files, and samples with plain zarr.
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

from benchmarks.claims import CACHE
from infra.store import Store

__all__ = ["SHARDS", "Told", "check", "copied", "labels", "table"]

SHARDS, SAMPLES, SIDE = 2, 3, 16


@dataclass(frozen=True)
class Told:
    """What a publisher published, and the number it was told; None if it was told that it lost."""

    version: str
    content: int
    number: int | None


def labels(number: int, content: int, shard: int) -> np.ndarray:
    return np.random.default_rng([number, content, shard]).integers(
        0, 11, (SAMPLES, SIDE, SIDE), dtype=np.uint8
    )


def table() -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{row:04d}" for row in range(SAMPLES)]})


def copied(store: Store) -> Path:
    """Everything in the store, as files."""
    target = Path(tempfile.mkdtemp(dir=CACHE))
    if "://" not in store.url:
        return Path(shutil.copytree(store.url, target / "store"))
    files = fsspec.filesystem("s3", skip_instance_cache=True, **store.options)
    files.get(store.url.removeprefix("s3://"), str(target / "store"), recursive=True)
    return target / "store"


def check(root: Path, told: list[Told]) -> list[str]:
    """Compare the files of a store with what its publishers were told."""
    manifests = {
        version: read_manifest(root, version) for version in sorted({one.version for one in told})
    }
    wrong = [f"{version} is lost" for version, manifest in manifests.items() if not manifest]
    present = {version: manifest for version, manifest in manifests.items() if manifest}
    if sorted(manifest["number"] for manifest in present.values()) != list(
        range(1, len(present) + 1)
    ):
        wrong.append(f"numbers are {sorted(manifest['number'] for manifest in present.values())}")
    for version, manifest in present.items():
        wrong += check_told(manifest, [one for one in told if one.version == version])
        wrong += check_content(root / "versions" / version, manifest)
    return wrong


def read_manifest(root: Path, version: str) -> dict[str, Any] | None:
    """The manifest, None if it is not there or not what its seal says."""
    path = root / "versions" / version / "manifest.json"
    body, _, seal = (path.read_bytes() if path.exists() else b"").rpartition(b', "seal": "')
    if hashlib.sha256(body).hexdigest().encode() + b'"}' != seal:
        return None
    manifest: dict[str, Any] = json.loads(body + b"}")
    return manifest


def check_told(manifest: dict[str, Any], told: list[Told]) -> Iterator[str]:
    """Those with the content that is there must have been told its number, all others that they
    lost.
    """
    content = manifest["meta"]["content"]
    for one in told:
        expected = manifest["number"] if one.content == content else None
        if one.number != expected:
            yield f"{one.version} holds content {content} as number {manifest['number']}, but {one} was told"


def check_content(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Every sample and file must be what the winner wrote."""
    content, number = manifest["meta"]["content"], int(manifest["version"].split("-")[1])
    for shard in range(SHARDS):
        name = f"{shard:05d}-{content}"
        try:
            label = zarr.open_group(str(folder / "data" / f"{name}.zarr"), mode="r")["label"][:]
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
