"""Dataset versions: immutable, checksummed, in one order, there whole or not at all: the manifest makes a version.

versions/<version>/data/<shard>.{zarr,parquet,json}
versions/<version>/{card,vocabulary}-<digest>.{md,json}
versions/<version>/manifest.json
publications/<number>/        the publishers' agreement on the manifest with this number (`infra.store.agreement`)
publications/<number>.json    which that is, written after it was put beside its samples

Number n is agreed on after manifest n-1 was written, so that no version ever appears before one that a reader has seen.
"""

from __future__ import annotations

import itertools
import logging
import random
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from infra.parsing import checked
from infra.store.agreement import agree
from infra.store.errors import MissingError, PublishedError, StoreError
from infra.store.seal import Count, FileSum, Sha256, seal, unseal
from infra.store.shards import Marker, read_marker
from infra.store.store import NAME, Store, check_name

__all__ = ["Manifest", "ShardSum", "list_versions", "publish_version", "published_sum", "read_version"]

_LOG = "publications"
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

    `created` is in UTC, ISO 8601, by the publisher's clock. `number` is the place in the order of publication, from 1
    on; 0 for what was published before there was such an order.
    """

    version: _Name
    created: Annotated[str, AfterValidator(_date)]
    shards: Annotated[Mapping[_Name, ShardSum], Field(min_length=1)]
    files: Mapping[_Name, FileSum]
    meta: Mapping[str, Any]
    number: Count = 0

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards.values())

    @property
    def digest(self) -> str:
        """SHA-256 of all but `created` and `number`; stands for every byte of the version."""
        content = {name: value for name, value in asdict(self).items() if name != "number"}
        return FileSum.of(seal({**content, "created": ""})).sha256

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


@dataclass(frozen=True)
class _Entry:
    """Version that has a number, and SHA-256 of its manifest."""

    version: _Name
    sha256: Sha256


def publish_version(
    store: Store,
    version: str,
    *,
    shards: Sequence[str],
    meta: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Make a version of finished shards, given as paths `versions/<version>/data/<name>`, and return its manifest.

    `files`, such as the card, go beside `data`, with a digest in their name. Publishing the same content again changes
    nothing; other content under a published name is a `PublishedError`, an unfinished shard a `StoreError`.

    Of several who publish different content under one name at once, one wins whole and for ever, if their shards have
    different names; it holds wherever listings show what was written. After any other error, such as an endpoint that
    went away, publishing again tells whether it was published.
    """
    manifest = _compose(store, version, shards, meta, _write_files(store, version, files or {}))
    published = _append(store, manifest)
    if published.digest != manifest.digest:
        raise PublishedError(
            f"version {version!r} is published with other content; versions never change: take another name"
        )
    return published


def list_versions(store: Store) -> list[Manifest]:
    """Return all published versions in the order of publication, the newest last.

    What is listed later comes after all that was listed before, whoever lists and whatever the clocks say: `number`
    tells how far a reader has come. A version whose manifest is damaged is left out and logged.
    """
    found = _read_all(store, _names(store))
    last = max((manifest.number for manifest in found.values() if manifest), default=0)
    found |= _read_all(store, [name for name in _names(store) if name not in found])  # published meanwhile
    whole = [manifest for manifest in found.values() if manifest and manifest.number <= last]  # none before is missing
    return sorted(whole, key=lambda manifest: (manifest.number, manifest.created, manifest.version))


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


def published_sum(store: Store, manifest: Manifest) -> str | None:
    """Return the SHA-256 of the manifest that was agreed on as its number; None if that was not in this store."""
    entry = _entered(store, f"{_LOG}/{manifest.number:08d}")
    return entry.sha256 if entry and entry.version == manifest.version else None


def _path(version: str) -> str:
    return f"versions/{check_name('version', version)}/manifest.json"


def _append(store: Store, manifest: Manifest) -> Manifest:
    """Give the manifest the next number, unless its version has one; return the manifest that the version has."""
    first = max((int(name[:8]) for name in store.list(_LOG) if name[:8].isdigit()), default=1)
    with suppress(MissingError):  # asked after the listing: versions before the last number are there by now
        return read_version(store, manifest.version)
    for number in itertools.count(first):
        path, begun = f"{_LOG}/{number:08d}", time.monotonic()
        entry = _entered(store, path) or _enter(store, path, replace(manifest, number=number))
        if entry.version == manifest.version:
            with suppress(MissingError):  # deleted since
                return read_version(store, manifest.version)
        time.sleep(random.uniform(0, 2) * (time.monotonic() - begun))  # rivals who do not meet again need fewer rounds
    raise AssertionError("unreachable")


def _entered(store: Store, path: str) -> _Entry | None:
    """What has that number; None unless it was put beside its samples, or if nobody can read that."""
    try:
        entry: _Entry = checked(unseal(store.read_bytes(f"{path}.json")), _Entry)
    except (MissingError, ValueError):
        return None
    return entry


def _enter(store: Store, path: str, manifest: Manifest) -> _Entry:
    """Agree on the manifest with that number and put it beside its samples, whosever they are.

    A publisher who sleeps in here and wakes writes the same bytes again.
    """
    data = agree(store, path, manifest.to_bytes())
    if entry := _entered(store, path):  # by another one meanwhile
        return entry
    try:
        winner = Manifest.from_bytes(data)
    except ValueError as error:
        raise StoreError(f"{store.url}/{path}: somebody published what is no manifest: {error}; delete it") from error
    if store.exists(f"{winner.paths[0]}.json"):  # else its publisher was killed long ago and it was swept
        store.place.put(_path(winner.version), [data])
    entry = _Entry(winner.version, FileSum.of(data).sha256)
    store.write_bytes(f"{path}.json", seal(asdict(entry)))
    return entry


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
    store: Store, version: str, shards: Sequence[str], meta: Mapping[str, Any], files: Mapping[str, FileSum]
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
        raise StoreError(f"{store.url}/{path} is not finished; write the shard before the version is published")
    return ShardSum.of(marker)


def _names(store: Store) -> list[str]:
    return [name for name in store.list("versions") if re.fullmatch(NAME, name)]


def _read_all(store: Store, versions: Sequence[str]) -> dict[str, Manifest | None]:
    """Manifests of those that are published; None for a damaged one."""
    with ThreadPoolExecutor(store.place.readers) as pool:
        found = list(pool.map(lambda version: _bytes(store, version), versions))
    return {v: _parsed(store, v, data) for v, data in zip(versions, found, strict=True) if data is not None}


def _bytes(store: Store, version: str) -> bytes | None:
    try:
        return store.read_bytes(_path(version))
    except MissingError:
        return None  # not published yet, or never


def _parsed(store: Store, version: str, data: bytes) -> Manifest | None:
    try:
        return Manifest.from_bytes(data)
    except ValueError as error:
        _logger.warning("%s/%s: %s; restore it from a copy", store.url, _path(version), error)
        return None
