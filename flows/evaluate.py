"""Evaluation: a checkpoint, by default the champion, measured on the set the settings name."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.settings import Settings
from tasks.evaluate.evaluate import evaluate as measure
from tasks.monitor.watch import watching
from tasks.promote.champion import champion_of, watch_champion
from tasks.run.names import checkpoint_name

__all__ = ["evaluate"]


@flow(name="evaluate", flow_run_name=checkpoint_name)
def evaluate(settings: Settings, checkpoint: str | None = None) -> dict[str, Any]:
    """Measure a checkpoint and return the evaluation; emit an event if the champion regressed.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
        checkpoint: A checkpoint. If it is left out, it is the champion.
    """
    name = checkpoint or champion_of(settings)
    with watching(settings):
        found = measure(settings, name)
    watch_champion(settings, name, found)
    return found
