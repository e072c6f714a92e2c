"""Pins: versions that are kept until they are unpinned, as pins/<version>.json."""

from __future__ import annotations

from infra.store import Store, read_version

__all__ = ["pin", "pins", "unpin"]


def pins(store: Store) -> list[str]:
    """Return the names of the pinned versions."""
    return [name.removesuffix(".json") for name in store.list("pins")]


def pin(store: Store, version: str, why: str) -> None:
    """Keep a version until it is unpinned. Raises `MissingError` if it is not published."""
    read_version(store, version)
    store.write_json(f"pins/{version}.json", {"why": why})


def unpin(store: Store, version: str) -> None:
    """Leave a version to the retention again; nothing happens if it is not pinned."""
    store.delete(f"pins/{version}.json")
