"""Rollback: an earlier champion back in its place."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.settings import Settings
from tasks.promote.champion import roll_back

__all__ = ["rollback"]


@flow(name="rollback")
def rollback(settings: Settings, to: str | None = None) -> dict[str, Any]:
    """Make the champion before this one, or the checkpoint named, the champion again; return
    champion.json.

    Args: settings: What the run is told; the rest comes from the worker's environment, or is the
        default. to: A checkpoint; none: the champion before this one.
    """
    return roll_back(settings, to)
