"""Errors of a store. Each message names the path and the remedy."""

from __future__ import annotations

from infra.text import visible

__all__ = ["CorruptShardError", "FormatError", "MissingError", "PublishedError", "StoreError"]


class StoreError(Exception):
    """The store cannot do what was asked.

    The message says why and what to do. It holds no control characters, so terminals and logs can
    show it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class MissingError(StoreError):
    """Nothing exists at that path."""


class FormatError(StoreError):
    """An intact file was written in a format that this version of segmint does not read."""


class CorruptShardError(StoreError):
    """Bytes of a finished shard are missing or differ from what was written."""


class PublishedError(StoreError):
    """A published version cannot be changed."""
