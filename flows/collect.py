"""Garbage collection: deletes what the retention settings do not keep."""

from __future__ import annotations

from prefect import flow

from infra.settings import Settings
from tasks.gc import Garbage, collect
from tasks.run.names import gc_name

__all__ = ["gc"]


@flow(name="gc", flow_run_name=gc_name)
def gc(settings: Settings, dry_run: bool = False) -> list[Garbage]:
    """Delete old versions, working shards of published runs, and abandoned runs; return them.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
        dry_run: Return what would be deleted, and delete nothing.
    """
    return collect(settings, dry_run)
