"""The manifest of a version: the file that publishes it, with the checksums of all its files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from infra.parsing import checked
from infra.store.errors import FormatError, MissingError, StoreError
from infra.store.marker import Marker
from infra.store.seal import Count, FileSum, Sha256, seal, seal_record, unseal_record
from infra.store.store import NAME, Store, check_name

__all__ = [
    "Date",
    "Manifest",
    "Name",
    "Number",
    "Positions",
    "ShardSum",
    "manifest_path",
    "read_version",
]

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Number = Annotated[int, Field(strict=True, ge=1)]


def _date(text: str) -> str:
    datetime.fromisoformat(text)  # raises a ValueError that says what is wrong
    return text


Date = Annotated[str, AfterValidator(_date)]


@dataclass(frozen=True)
class ShardSum:
    """Number of samples of a shard, and the SHA-256 of its marker with `seconds` set to 0.

    The marker holds the checksums of all its files.
    """

    samples: Count
    sha256: Sha256

    @classmethod
    def of(cls, marker: Marker) -> ShardSum:
        """Return the sum of a shard from its marker."""
        return cls(len(marker.ids), FileSum.of(replace(marker, seconds=0.0).to_bytes()).sha256)


@dataclass(frozen=True)
class Manifest:
    """What a version holds: shards by name, other files by name, and the publisher's `meta`.

    `created` is the publisher's clock in UTC, ISO 8601. `number` counts publications of the store,
    from 1 on.
    """

    version: Name
    created: Date
    shards: Annotated[Mapping[Name, ShardSum], Field(min_length=1)]
    files: Mapping[Name, FileSum]
    meta: Mapping[str, Any]
    number: Number

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards.values())

    @property
    def digest(self) -> str:
        """SHA-256 of everything but `created` and `number`. It covers every byte of the version."""
        content = {name: value for name, value in asdict(self).items() if name != "number"}
        return FileSum.of(seal({**content, "created": ""})).sha256

    @property
    def paths(self) -> list[str]:
        """Paths of the shards, in order."""
        return [f"versions/{self.version}/data/{name}" for name in self.shards]

    def to_bytes(self) -> bytes:
        """Return the manifest as it is stored."""
        return seal_record(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Return the manifest stored as `data`.

        Raises `ValueError` if `data` is damaged or no manifest, `FormatError` for another format.
        """
        manifest: Manifest = checked(unseal_record(data), cls)
        return manifest


class Positions:
    """The samples of several shards, counted through from the first shard's first on."""

    def __init__(self, shards: Iterable[ShardSum]) -> None:
        self._ends = list(accumulate(shard.samples for shard in shards))

    def __len__(self) -> int:
        return self._ends[-1]

    def find(self, position: int) -> tuple[int, int]:
        """Return the index of the shard that holds a position, and the index in that shard."""
        shard = bisect_right(self._ends, position)
        return shard, position - (self._ends[shard - 1] if shard else 0)


def read_version(store: Store, version: str) -> Manifest:
    """Return the manifest of a version.

    Raises `MissingError` if the version is not published, `FormatError` for a manifest of another
    format, and `StoreError` for a damaged one.
    """
    path = f"{store.url}/{manifest_path(version)}"
    try:
        manifest = Manifest.from_bytes(store.read_bytes(manifest_path(version)))
    except MissingError:
        there = ", ".join(store.list("versions")) or "none"
        raise MissingError(
            f"no version {version!r} is published in {store.url}; there are: {there}"
        ) from None
    except FormatError as error:
        raise FormatError(f"{path} {error}") from error
    except ValueError as error:
        raise StoreError(f"{path}: {error}; restore it from a copy or publish anew") from error
    if manifest.version != version:  # its paths lead to the other version
        raise StoreError(
            f"{path}: it is the manifest of version {manifest.version!r}; restore it from a copy"
        )
    return manifest


def manifest_path(version: str) -> str:
    """Return the path of a version's manifest."""
    return f"versions/{check_name('version', version)}/manifest.json"
