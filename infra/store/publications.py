"""The log of publications: which manifest has which number, with what a list of versions shows.

publications/<number>/        the publishers' agreement on one manifest (`infra.store.agreement`)
publications/<number>.json    the entry, written after the manifest is stored beside its samples

Number n is agreed on after entry n-1 is written, so no version ever appears before one that a
reader has already seen. A manifest may hold a hundred thousand shards; an entry stays small.
"""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.parsing import checked
from infra.store.agreement import agree, back_off
from infra.store.errors import CorruptShardError, FormatError, MissingError, StoreError
from infra.store.manifest import Date, Manifest, Name, Number, manifest_path, read_version
from infra.store.seal import Count, FileSum, Sha256, seal_record, unseal_record
from infra.store.store import NAME, Store

__all__ = ["Published", "append", "list_versions", "published_sum"]

_LOG = "publications"
_ENTRY = re.compile(r"(\d{8})\.json")
_END_BYTES = 66  # of a manifest: its seal, which differs from every other manifest's
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """Summary of a published version.

    The fields of its `Manifest`, but `shards` is their number, and `sha256` is the manifest's.
    """

    version: Name
    number: Number
    created: Date
    samples: Count
    shards: Count
    meta: Mapping[str, Any]
    sha256: Sha256

    @classmethod
    def of(cls, manifest: Manifest, sha256: str) -> Published:
        """Return the summary of a manifest with this SHA-256."""
        return cls(
            version=manifest.version,
            number=manifest.number,
            created=manifest.created,
            samples=manifest.samples,
            shards=len(manifest.shards),
            meta=manifest.meta,
            sha256=sha256,
        )


@dataclass(frozen=True)
class _Entry:
    """An entry of the log: version and SHA-256 of its manifest, the summary, and the manifest's
    size and last bytes, by which it is recognised without being read.
    """

    version: Name
    sha256: Sha256
    told: Published
    size: Count
    end: str

    @classmethod
    def of(cls, manifest: Manifest, data: bytes) -> _Entry:
        """Return the entry of a manifest that is stored as `data`."""
        sha256 = FileSum.of(data).sha256
        return cls(
            version=manifest.version,
            sha256=sha256,
            told=Published.of(manifest, sha256),
            size=len(data),
            end=data[-_END_BYTES:].decode(),
        )

    def is_stored(self, store: Store) -> bool:
        """Whether this manifest is stored beside its samples, and not a later one of that name.

        Raises `MissingError` if there is none.
        """
        end = bytearray(self.end.encode())
        with suppress(CorruptShardError):  # the stored one is shorter
            store.place.fill([(manifest_path(self.version), self.size - len(end), memoryview(end))])
            return end == self.end.encode()
        return False


def list_versions(store: Store) -> list[Published]:
    """Return all published versions in the order of publication, the newest last.

    A version that appears later follows all that were listed before, for every reader and with
    any clocks: `number` is how far a reader has come. A manifest is read only for a version
    without an entry, whose publisher is between manifest and entry. If that manifest is damaged,
    the version is left out and logged; damage in others shows when they are read or verified.
    Raises `FormatError` for entries and manifests of another format.
    """
    numbers = sorted(int(found[1]) for found in map(_ENTRY.fullmatch, store.list(_LOG)) if found)
    names = [name for name in store.list("versions") if re.fullmatch(NAME, name)]
    with ThreadPoolExecutor(store.place.readers) as pool:
        entries = pool.map(lambda number: _read_entry(store, f"{_LOG}/{number:08d}"), numbers)
        logged = {entry.version: entry for entry in entries if entry}  # the last one of a name
        found = list(pool.map(lambda name: _summary(store, name, logged.get(name)), names))
    following = numbers[-1] + 1 if numbers else 1
    listed = [one for one in found if one and one.number <= following]  # none before is missing
    return sorted(listed, key=lambda one: one.number)


def _summary(store: Store, version: str, entry: _Entry | None) -> Published | None:
    """Return a version's summary from its entry, else from its manifest.

    None for a version that is deleted, or not published yet.
    """
    path = manifest_path(version)
    try:
        if entry and entry.is_stored(store):
            return entry.told
        data = store.read_bytes(path)
        return Published.of(Manifest.from_bytes(data), FileSum.of(data).sha256)
    except MissingError:
        return None
    except FormatError as error:
        raise FormatError(f"{store.url}/{path} {error}") from error
    except ValueError as error:
        _logger.warning("%s/%s: %s; restore it from a copy", store.url, path, error)
        return None


def published_sum(store: Store, manifest: Manifest) -> str | None:
    """Return the SHA-256 of the manifest that was agreed on under this manifest's number.

    None if this store has no such publication, as in a copy of a version.
    """
    entry = _read_entry(store, f"{_LOG}/{manifest.number:08d}")
    return entry.sha256 if entry and entry.version == manifest.version else None


def append(store: Store, manifest: Manifest) -> Manifest:
    """Publish the manifest under the next number, unless its version is published already.

    Returns the manifest that the version has in the end, which may be another publisher's.
    """
    first = max((int(name[:8]) for name in store.list(_LOG) if name[:8].isdigit()), default=1)
    with suppress(MissingError):  # read after the listing, so versions before `first` exist by now
        return read_version(store, manifest.version)
    for number in itertools.count(first):
        path = f"{_LOG}/{number:08d}"
        begun = time.monotonic()
        entry = _read_entry(store, path) or _enter(store, path, replace(manifest, number=number))
        if entry.version == manifest.version:
            with suppress(MissingError):  # deleted since
                return read_version(store, manifest.version)
        back_off(begun)
    raise AssertionError("unreachable")


def _read_entry(store: Store, path: str) -> _Entry | None:
    """Return the entry with that number.

    None if it is not written, because its manifest may not be stored yet, or if it is damaged.
    Raises `FormatError` for an entry of another format.
    """
    try:
        entry: _Entry = checked(unseal_record(store.read_bytes(f"{path}.json")), _Entry)
    except FormatError as error:
        raise FormatError(f"{store.url}/{path}.json {error}") from error
    except (MissingError, ValueError):
        return None
    return entry


def _enter(store: Store, path: str, manifest: Manifest) -> _Entry:
    """Agree on the manifest with that number, store it beside its samples and write the entry.

    The agreed manifest may be another publisher's. A publisher that is suspended in here and
    continues later writes the same bytes again.
    """
    data = agree(store, path, manifest.to_bytes())
    if entry := _read_entry(store, path):  # another publisher was faster
        return entry
    try:
        winner = Manifest.from_bytes(data)
    except FormatError as error:
        raise FormatError(f"{store.url}/{path} {error}") from error
    except ValueError as error:
        raise StoreError(
            f"{store.url}/{path}: a publisher proposed what is no manifest: {error}; delete it"
        ) from error
    # without samples the publisher was killed long ago and its files were deleted since
    if store.exists(f"{winner.paths[0]}.json"):
        store.place.put(manifest_path(winner.version), [data])
    entry = _Entry.of(winner, data)
    store.write_bytes(f"{path}.json", seal_record(asdict(entry)))
    return entry
