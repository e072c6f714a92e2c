"""The manifest of a version: the one small object that makes it, with the checksum of everything
that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from infra.parsing import checked
from infra.store.errors import MissingError, StoreError
from infra.store.seal import Count, FileSum, Sha256, seal, unseal
from infra.store.shards import Marker
from infra.store.store import NAME, Store, check_name

__all__ = ["Date", "Manifest", "Name", "ShardSum", "manifest_path", "read_version"]

Name = Annotated[str, Field(pattern=f"^{NAME}$")]


def _date(text: str) -> str:
    datetime.fromisoformat(text)  # ValueError tells what it is instead
    return text


Date = Annotated[str, AfterValidator(_date)]


@dataclass(frozen=True)
class ShardSum:
    """Number of samples of a shard, and the SHA-256 of its marker (without the seconds), which
    holds all checksums.
    """

    samples: Count
    sha256: Sha256

    @classmethod
    def of(cls, marker: Marker) -> ShardSum:
        """Sum up a shard."""
        return cls(len(marker.ids), FileSum.of(replace(marker, seconds=0.0).to_bytes()).sha256)


@dataclass(frozen=True)
class Manifest:
    """What a version holds: shards by name, loose files by name, and what the publisher tells of it
    in `meta`.

    `created` is in UTC, ISO 8601, by the publisher's clock. `number` is the place in the order of
    publication, from 1 on; 0 for what was published before there was such an order.
    """

    version: Name
    created: Date
    shards: Annotated[Mapping[Name, ShardSum], Field(min_length=1)]
    files: Mapping[Name, FileSum]
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


def read_version(store: Store, version: str) -> Manifest:
    """Return the manifest of a version;

    `MissingError` if it is not published, `StoreError` if that is damaged.
    """
    try:
        manifest = Manifest.from_bytes(store.read_bytes(manifest_path(version)))
        if manifest.version != version:  # its paths lead to that one
            raise ValueError(f"it is the manifest of version {manifest.version!r}")
        return manifest
    except MissingError:
        there = ", ".join(store.list("versions")) or "none"
        raise MissingError(
            f"no version {version!r} is published in {store.url}; there are: {there}"
        ) from None
    except ValueError as error:
        path = f"{store.url}/{manifest_path(version)}"
        raise StoreError(f"{path}: {error}; restore it from a copy or publish anew") from error


def manifest_path(version: str) -> str:
    """Where a version's manifest lies."""
    return f"versions/{check_name('version', version)}/manifest.json"
