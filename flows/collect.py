"""Garbage collection: deletes what the retention settings do not keep."""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from infra.settings import Settings
from tasks.gc.collect import Found, collect
from tasks.run.names import gc_name

__all__ = ["gc"]


@flow(name="gc", flow_run_name=gc_name)
def gc(settings: Settings, dry_run: bool = False) -> Found:
    """Delete old versions, working shards of published runs, and abandoned runs; return them.

    What segmint did not write stays, and is named in the log.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
        dry_run: Return what would be deleted, and delete nothing.
    """
    found = collect(settings, dry_run)
    for path, why in found.left:
        get_run_logger().warning("%s stays: %s", path, why)
    return found
