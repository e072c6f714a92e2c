"""Dataset versions: immutable, checksummed, there whole or not at all: the manifest is written last and makes it one.

versions/<version>/data/<shard>.{zarr,parquet,json}
versions/<version>/{card.md,report.html,vocabulary.json}
versions/<version>/manifest.json
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from infra.parsing import checked
from infra.store.errors import MissingError, PublishedError, StoreError
from infra.store.seal import Count, FileSum, Sha256, seal, unseal
from infra.store.shards import Marker, read_marker
from infra.store.store import NAME, Store, check_name

__all__ = ["Manifest", "ShardSum", "list_versions", "publish_version", "read_version"]

_Name = Annotated[str, Field(pattern=f"^{NAME}$")]
_logger = logging.getLogger(__name__)


def _date(text: str) -> str:
    datetime.fromisoformat(text)  # ValueError tells what it is instead
    return text


@dataclass(frozen=True)
class ShardSum:
    """Number of samples of a shard, and the SHA-256 of its marker (without the seconds), which holds all checksums."""

    samples: Count
    sha256: Sha256

    @classmethod
    def of(cls, marker: Marker) -> ShardSum:
        """Sum up a shard."""
        return cls(len(marker.ids), FileSum.of(replace(marker, seconds=0.0).to_bytes()).sha256)


@dataclass(frozen=True)
class Manifest:
    """What a version holds: shards by name, loose files by name, and what the publisher tells of it in `meta`.

    `created` is in UTC, ISO 8601.
    """

    version: _Name
    created: Annotated[str, AfterValidator(_date)]
    shards: Mapping[_Name, ShardSum]
    files: Mapping[_Name, FileSum]
    meta: Mapping[str, Any]

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards.values())

    @property
    def digest(self) -> str:
        """SHA-256 of all but `created`; stands for every byte of the version."""
        return FileSum.of(replace(self, created="").to_bytes()).sha256

    @property
    def paths(self) -> list[str]:
        """Paths of the shards, in order."""
        return [f"versions/{self.version}/data/{name}" for name in self.shards]

    def to_bytes(self) -> bytes:
        """Return the manifest as it is stored."""
        return seal(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Return the manifest that was stored; ValueError if it is not one."""
        manifest: Manifest = checked(unseal(data), cls)
        return manifest


def publish_version(store: Store, version: str, *, shards: Sequence[str], meta: Mapping[str, Any]) -> Manifest:
    """Make a version of finished shards, given as paths `versions/<version>/data/<name>`, and return its manifest.

    Loose files beside `data`, such as the card, belong to it as they are now. Publishing the same content again changes
    nothing; other content under a published name is a `StoreError`, as is a shard that is not finished.
    """
    manifest = _compose(store, version, shards, meta)
    try:
        published = read_version(store, version)
    except MissingError:
        with suppress(PublishedError):  # another process came first
            store.write_bytes(_path(version), manifest.to_bytes())
        published = read_version(store, version)
    if published.digest != manifest.digest:
        raise PublishedError(
            f"version {version!r} is published with other content; versions never change: take another name"
        )
    return published


def list_versions(store: Store) -> list[Manifest]:
    """Return all published versions, oldest first. One whose manifest is damaged is left out and logged."""
    with ThreadPoolExecutor(store.place.readers) as pool:
        found = list(pool.map(lambda version: _readable(store, version), store.list("versions")))
    return sorted(
        (manifest for manifest in found if manifest), key=lambda manifest: (manifest.created, manifest.version)
    )


def read_version(store: Store, version: str) -> Manifest:
    """Return the manifest of a version; `MissingError` if it is not published, `StoreError` if that is damaged."""
    try:
        manifest = Manifest.from_bytes(store.read_bytes(_path(version)))
        if manifest.version != version:  # its paths lead to that one
            raise ValueError(f"it is the manifest of version {manifest.version!r}")
        return manifest
    except MissingError:
        there = ", ".join(store.list("versions")) or "none"
        raise MissingError(f"no version {version!r} is published in {store.url}; there are: {there}") from None
    except ValueError as error:
        raise StoreError(f"{store.url}/{_path(version)}: {error}; restore it from a copy or publish anew") from error


def _path(version: str) -> str:
    return f"versions/{check_name('version', version)}/manifest.json"


def _compose(store: Store, version: str, shards: Sequence[str], meta: Mapping[str, Any]) -> Manifest:
    folder = f"versions/{version}"
    names = [path.removeprefix(f"{folder}/data/") for path in sorted(shards)]
    if not names or any("/" in name for name in names) or len(set(names)) < len(names):
        raise StoreError(
            f"version {version!r} needs shards {folder}/data/<name>, each once, but was given {list(shards)}"
        )
    loose = [name for name in store.list(folder) if name not in ("data", "manifest.json")]
    with ThreadPoolExecutor(store.place.readers) as pool:
        sums = list(pool.map(lambda name: _shard_sum(store, f"{folder}/data/{name}"), names))
        files = list(pool.map(lambda name: FileSum.of(store.read_bytes(f"{folder}/{name}")), loose))
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    shard_sums, file_sums = dict(zip(names, sums, strict=True)), dict(zip(loose, files, strict=True))
    return Manifest.from_bytes(Manifest(version, created, shard_sums, file_sums, meta).to_bytes())


def _shard_sum(store: Store, path: str) -> ShardSum:
    marker = read_marker(store, path)
    if marker is None:
        raise StoreError(f"{store.url}/{path} is not finished; write the shard before the version is published")
    return ShardSum.of(marker)


def _readable(store: Store, version: str) -> Manifest | None:
    try:
        return read_version(store, version)
    except MissingError:
        return None  # not published yet, or never
    except StoreError as error:
        _logger.warning("%s", error)
        return None
