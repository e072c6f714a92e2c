"""What can go wrong with a store, each with a message that names the place and the remedy."""

from __future__ import annotations

from infra.text import visible

__all__ = ["CorruptShardError", "MissingError", "PublishedError", "StoreError"]


class StoreError(Exception):
    """The store could not do what was asked; the message says why and what helps, safe for a
    terminal or a log.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class MissingError(StoreError):
    """Nothing lies at that path."""


class CorruptShardError(StoreError):
    """Bytes of a finished shard are gone or are not the ones that were written."""


class PublishedError(StoreError):
    """A published version takes no other content."""
