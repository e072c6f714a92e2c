"""Garbage collection: what the retention lets go leaves the store."""

from __future__ import annotations

from prefect import flow

from infra.settings import Settings
from tasks.gc import Garbage, collect

__all__ = ["gc"]


@flow(name="gc")
def gc(settings: Settings, dry_run: bool = False) -> list[Garbage]:
    """Delete old versions, working shards of published runs and abandoned runs; or, dry, tell of
    them only.

    Args: settings: What the run is told; the rest comes from the worker's environment, or is the
        default. dry_run: Tell what would be deleted, and delete nothing.
    """
    return collect(settings, dry_run)
