"""Rollback: withdraws the champion and makes another checkpoint the champion."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.settings import Settings
from tasks.promote.champion import roll_back
from tasks.run.names import rollback_name

__all__ = ["rollback"]


@flow(name="rollback", flow_run_name=rollback_name)
def rollback(settings: Settings, to: str | None = None) -> dict[str, Any]:
    """Withdraw the champion, make an earlier one the champion again, and return its entry.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
        to: A checkpoint. If it is left out, it is the best that was not withdrawn: the champion
            before the current one, or a challenger since that beats it.
    """
    return roll_back(settings, to)
