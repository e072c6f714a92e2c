"""Dataset versions: immutable, checksummed, numbered. A version exists once its manifest does.

versions/<version>/data/<shard>.{zarr,parquet,json}
versions/<version>/{card,vocabulary}-<digest>.{md,json}
versions/<version>/manifest.json
publications/       see `infra.store.publications`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from infra.store.errors import PublishedError, StoreError
from infra.store.manifest import Manifest, ShardSum
from infra.store.marker import read_marker
from infra.store.publications import append
from infra.store.seal import FileSum
from infra.store.store import Store

__all__ = ["publish_version"]

_DRAFT = 1  # number of a manifest until `append` gives it its own


def publish_version(
    store: Store,
    version: str,
    *,
    shards: Sequence[str],
    meta: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Publish finished shards, given as paths `versions/<version>/data/<name>`, as a version.

    Returns its manifest. `files`, such as the card, are stored beside `data`, with a digest in
    their name. Publishing the same content again changes nothing. Raises `PublishedError` for other
    content under a published name, and `StoreError` for an unfinished shard.

    If several processes publish different content under one name at once, exactly one of them
    succeeds, provided their shards have different names and the store lists what it holds. After
    any other error, such as a lost connection, publish again: the result says whether it worked.
    """
    manifest = _compose(store, version, shards, meta, _write_files(store, version, files or {}))
    published = append(store, manifest)
    if published.digest != manifest.digest:
        raise PublishedError(
            f"version {version!r} is published with other content; "
            "versions never change: take another name"
        )
    return published


def _write_files(store: Store, version: str, files: Mapping[str, bytes]) -> dict[str, FileSum]:
    """Write loose files and return their sums.

    The digest in the name keeps apart the files of processes that publish at once.
    """
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
            f"version {version!r} needs shards {folder}/data/<name>, each once, "
            f"but was given {list(shards)}"
        )
    with ThreadPoolExecutor(store.place.readers) as pool:
        sums = list(pool.map(lambda name: _shard_sum(store, f"{folder}/data/{name}"), names))
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    draft = Manifest(version, created, dict(zip(names, sums, strict=True)), files, meta, _DRAFT)
    return Manifest.from_bytes(draft.to_bytes())  # as it will be read: wrong names fail here


def _shard_sum(store: Store, path: str) -> ShardSum:
    marker = read_marker(store, path)
    if marker is None:
        raise StoreError(
            f"{store.url}/{path} is not finished; write the shard before the version is published"
        )
    return ShardSum.of(marker)
