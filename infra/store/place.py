"""What a folder and a bucket have in common: the few operations that a store is built of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Place", "Usage"]


class Usage(NamedTuple):
    """What lies below a path: bytes, and when the newest file of it was written, in seconds since
    1970 (0: none).
    """

    size: int
    modified: float


class Place(Protocol):
    """What a store needs of the place where it lies; paths are relative, with forward slashes."""

    writers: int
    readers: int

    def get(self, path: str) -> bytes: ...  # noqa: D102
    def fill(self, pieces: Sequence[tuple[str, int, memoryview]]) -> None: ...  # noqa: D102
    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> None: ...  # noqa: D102
    def exists(self, path: str) -> bool: ...  # noqa: D102
    def list(self, path: str) -> list[str]: ...  # noqa: D102
    def delete(self, path: str) -> None: ...  # noqa: D102
    def usage(self, path: str) -> Usage: ...  # noqa: D102
