"""The log of publications: which manifest has which number, and what it tells in short.

publications/<number>/        the publishers' agreement on the manifest with this number (`infra.store.agreement`)
publications/<number>.json    which that is, written after it was put beside its samples

Number n is agreed on after entry n-1 was written, so that no version ever appears before one that a
reader has seen. A manifest may hold a hundred thousand shards; an entry holds what a list of
versions shows.
"""

from __future__ import annotations

import itertools
import logging
import random
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.parsing import checked
from infra.store.agreement import agree
from infra.store.errors import CorruptShardError, MissingError, StoreError
from infra.store.manifest import Date, Manifest, Name, manifest_path, read_version
from infra.store.seal import Count, FileSum, Sha256, seal, unseal
from infra.store.store import NAME, Store

__all__ = ["Published", "append", "list_versions", "published_sum"]

_LOG = "publications"
_ENTRY = re.compile(r"(\d{8})\.json")
_END_BYTES = 66  # of a manifest: the seal, which tells it from any other
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A published version in short: as its `Manifest`, with the number of its shards and its
    manifest's SHA-256.
    """

    version: Name
    number: Count
    created: Date
    samples: Count
    shards: Count
    meta: Mapping[str, Any]
    sha256: Sha256

    @classmethod
    def of(cls, manifest: Manifest, sha256: str) -> Published:
        """Shorten a manifest."""
        counts = manifest.samples, len(manifest.shards)
        return cls(
            manifest.version, manifest.number, manifest.created, *counts, manifest.meta, sha256
        )


@dataclass(frozen=True)
class _Entry:
    """Version that has a number and SHA-256 of its manifest; and what that tells, by what it is
    known, size and end.

    Older entries do without the latter.
    """

    version: Name
    sha256: Sha256
    told: Published | None = None
    size: Count = 0
    end: str = ""

    @classmethod
    def of(cls, manifest: Manifest, data: bytes) -> _Entry:
        """Enter a manifest, `data` as it is stored."""
        sha256 = FileSum.of(data).sha256
        return cls(
            manifest.version,
            sha256,
            Published.of(manifest, sha256),
            len(data),
            data[-_END_BYTES:].decode(),
        )

    def is_there(self, store: Store) -> bool:
        """Whether this very manifest lies beside its samples, and not one that was published anew.

        `MissingError`.
        """
        end = bytearray(self.end.encode())
        with suppress(CorruptShardError):  # it is shorter
            store.place.fill([(manifest_path(self.version), self.size - len(end), memoryview(end))])
            return end == self.end.encode()
        return False


def list_versions(store: Store) -> list[Published]:
    """Return all published versions in the order of publication, the newest last.

    What is listed later comes after all that was listed before, whoever lists and whatever the
    clocks say: `number` tells how far a reader has come. Manifests are read only of versions that
    have no entry in the log: those from before there was one, and the one whose publisher is
    between manifest and entry. Such a one is left out and logged if it is damaged; damage of the
    others shows when they are read or verified.
    """
    numbers = sorted(int(found[1]) for found in map(_ENTRY.fullmatch, store.list(_LOG)) if found)
    there = [name for name in store.list("versions") if re.fullmatch(NAME, name)]
    with ThreadPoolExecutor(store.place.readers) as pool:
        entries = pool.map(lambda number: _entered(store, f"{_LOG}/{number:08d}"), numbers)
        logged = {
            entry.version: entry for entry in entries if entry
        }  # the last one, if it was published anew
        found = list(pool.map(lambda name: _short(store, name, logged.get(name)), there))
    following = numbers[-1] + 1 if numbers else 1
    shown = [
        one for one in found if one and (one.number <= following)
    ]  # none before these is missing
    return sorted(shown, key=lambda one: (one.number, one.created, one.version))


def _short(store: Store, version: str, entry: _Entry | None) -> Published | None:
    """What is told of a version by its entry, else by its manifest;

    None if it has none any more, or not yet.
    """
    path = manifest_path(version)
    try:
        if entry and entry.told and entry.is_there(store):
            return entry.told
        data = store.read_bytes(path)
        return Published.of(Manifest.from_bytes(data), FileSum.of(data).sha256)
    except MissingError:
        return None
    except ValueError as error:
        _logger.warning("%s/%s: %s; restore it from a copy", store.url, path, error)
        return None


def published_sum(store: Store, manifest: Manifest) -> str | None:
    """Return the SHA-256 of the manifest that was agreed on as its number;

    None if that was not in this store.
    """
    entry = _entered(store, f"{_LOG}/{manifest.number:08d}")
    return entry.sha256 if entry and entry.version == manifest.version else None


def append(store: Store, manifest: Manifest) -> Manifest:
    """Give the manifest the next number, unless its version has one; return the manifest that the
    version has.
    """
    first = max((int(name[:8]) for name in store.list(_LOG) if name[:8].isdigit()), default=1)
    with suppress(
        MissingError
    ):  # asked after the listing: versions before the last number are there by now
        return read_version(store, manifest.version)
    for number in itertools.count(first):
        path, begun = f"{_LOG}/{number:08d}", time.monotonic()
        entry = _entered(store, path) or _enter(store, path, replace(manifest, number=number))
        if entry.version == manifest.version:
            with suppress(MissingError):  # deleted since
                return read_version(store, manifest.version)
        time.sleep(
            random.uniform(0, 2) * (time.monotonic() - begun)
        )  # rivals who do not meet again need fewer rounds
    raise AssertionError("unreachable")


def _entered(store: Store, path: str) -> _Entry | None:
    """What has that number;

    None unless it was put beside its samples, or if nobody can read that.
    """
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
        raise StoreError(
            f"{store.url}/{path}: somebody published what is no manifest: {error}; delete it"
        ) from error
    if store.exists(
        f"{winner.paths[0]}.json"
    ):  # else its publisher was killed long ago and it was swept
        store.place.put(manifest_path(winner.version), [data])
    entry = _Entry.of(winner, data)
    store.write_bytes(f"{path}.json", seal(asdict(entry)))
    return entry
