"""Rollback: makes an earlier champion the champion again."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.settings import Settings
from tasks.promote.champion import roll_back
from tasks.run.names import rollback_name

__all__ = ["rollback"]


@flow(name="rollback", flow_run_name=rollback_name)
def rollback(settings: Settings, to: str | None = None) -> dict[str, Any]:
    """Make an earlier champion the champion again; return champion.json.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
        to: A checkpoint. If it is left out, it is the champion before the current one.
    """
    return roll_back(settings, to)
