"""Dataset versions: immutable, checksummed, in one order, there whole or not at all: the manifest
makes a version.

versions/<version>/data/<shard>.{zarr,parquet,json}
versions/<version>/{card,vocabulary}-<digest>.{md,json}
versions/<version>/manifest.json
publications/       `infra.store.publications`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from infra.store.errors import PublishedError, StoreError
from infra.store.manifest import Manifest, ShardSum
from infra.store.publications import append
from infra.store.seal import FileSum
from infra.store.shards import read_marker
from infra.store.store import Store

__all__ = ["publish_version"]


def publish_version(
    store: Store,
    version: str,
    *,
    shards: Sequence[str],
    meta: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Make a version of finished shards, given as paths `versions/<version>/data/<name>`, and
    return its manifest.

    `files`, such as the card, go beside `data`, with a digest in their name. Publishing the same
    content again changes nothing; other content under a published name is a `PublishedError`, an
    unfinished shard a `StoreError`.

    Of several who publish different content under one name at once, one wins whole and for ever, if
    their shards have different names; it holds wherever listings show what was written. After any
    other error, such as an endpoint that went away, publishing again tells whether it was
    published.
    """
    manifest = _compose(store, version, shards, meta, _write_files(store, version, files or {}))
    published = append(store, manifest)
    if published.digest != manifest.digest:
        raise PublishedError(
            f"version {version!r} is published with other content; versions never change: take another name"
        )
    return published


def _write_files(store: Store, version: str, files: Mapping[str, bytes]) -> dict[str, FileSum]:
    """Write loose files and return their sums; the digest in a name keeps rivals from each other's."""
    sums = {}
    for path, data in ((PurePath(name), data) for name, data in files.items()):
        found = FileSum.of(data)
        name = f"{path.stem}-{found.sha256[:8]}{path.suffix}"
        store.write_bytes(f"versions/{version}/{name}", data)
        sums[name] = found
    return sums


def _compose(
    store: Store,
    version: str,
    shards: Sequence[str],
    meta: Mapping[str, Any],
    files: Mapping[str, FileSum],
) -> Manifest:
    folder = f"versions/{version}"
    names = [path.removeprefix(f"{folder}/data/") for path in sorted(shards)]
    if not names or any("/" in name for name in names) or len(set(names)) < len(names):
        raise StoreError(
            f"version {version!r} needs shards {folder}/data/<name>, each once, but was given {list(shards)}"
        )
    with ThreadPoolExecutor(store.place.readers) as pool:
        sums = list(pool.map(lambda name: _shard_sum(store, f"{folder}/data/{name}"), names))
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    shard_sums = dict(zip(names, sums, strict=True))
    return Manifest.from_bytes(Manifest(version, created, shard_sums, files, meta).to_bytes())


def _shard_sum(store: Store, path: str) -> ShardSum:
    marker = read_marker(store, path)
    if marker is None:
        raise StoreError(
            f"{store.url}/{path} is not finished; write the shard before the version is published"
        )
    return ShardSum.of(marker)
