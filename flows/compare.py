"""Comparison: two checkpoints on one set, class by class."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.settings import Settings
from tasks.evaluate.compare import record_comparison
from tasks.evaluate.evaluate import evaluate
from tasks.monitor.watch import watching
from tasks.promote.champion import champion_of
from tasks.run.names import comparison_name

__all__ = ["compare"]


@flow(name="compare", flow_run_name=comparison_name)
def compare(settings: Settings, second: str, first: str | None = None) -> list[dict[str, Any]]:
    """Measure two checkpoints on the set that the settings name; return their differences by class.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
        second: A checkpoint.
        first: Another checkpoint. If it is left out, it is the champion.
    """
    names = first or champion_of(settings), second
    with watching(settings):
        found = evaluate(settings, names[0]), evaluate(settings, names[1])
    return record_comparison(settings, names, found)
