"""Names of flow runs in Prefect's UI."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect.runtime import flow_run

from infra.settings import Settings

__all__ = ["run_name"]


def run_name() -> str:
    """The run's name in the settings of the current flow run, with its date filled in."""
    settings: Settings = flow_run.parameters["settings"]
    return settings.dated((flow_run.scheduled_start_time or datetime.now(UTC)).date()).name
