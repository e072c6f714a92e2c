"""The interface that folders and buckets share. A store needs nothing else of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Place", "Usage"]


class Usage(NamedTuple):
    """Bytes at and below a path; time of the newest file in seconds since 1970, 0 without any."""

    size: int
    modified: float


class Place(Protocol):
    """A folder or bucket. Paths are relative to it, with forward slashes."""

    writers: int
    readers: int

    def get(self, path: str) -> bytes: ...  # noqa: D102
    def fill(self, pieces: Sequence[tuple[str, int, memoryview]]) -> None: ...  # noqa: D102
    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> None: ...  # noqa: D102
    def exists(self, path: str) -> bool: ...  # noqa: D102
    def list(self, path: str) -> list[str]: ...  # noqa: D102
    def is_link(self, path: str) -> bool: ...  # noqa: D102
    def delete(self, path: str) -> None: ...  # noqa: D102
    def usage(self, path: str) -> Usage: ...  # noqa: D102
