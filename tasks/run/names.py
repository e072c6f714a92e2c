"""Names of flow runs in Prefect's UI."""

from __future__ import annotations

from typing import Any

from prefect.runtime import flow_run

from tasks.plan.resolve import resolve_date

__all__ = ["checkpoint_name", "comparison_name", "gc_name", "rollback_name", "run_name"]


def run_name() -> str:
    """The run's name in the settings of the current flow run, with its date filled in."""
    return resolve_date(_parameter("settings")).name


def checkpoint_name() -> str:
    """The checkpoint that the current flow run evaluates."""
    return str(_parameter("checkpoint") or "champion")


def comparison_name() -> str:
    """What the current flow run compares: checkpoints, or models on a version."""
    named = list(_parameter("checkpoints") or ())
    if version := _parameter("version"):
        named.append(f"models on {version}")
    return " and ".join(named if len(named) > 1 or version else ["champion", *named])


def rollback_name() -> str:
    """The checkpoint that the current flow run makes the champion again."""
    return f"to {_parameter('to') or 'the champion before'}"


def gc_name() -> str:
    """Whether the current flow run deletes."""
    return "list garbage" if _parameter("dry_run") else "delete garbage"


def _parameter(name: str) -> Any:
    return flow_run.parameters[name]
