"""Evaluation: a checkpoint measured again, on whatever set the settings name today; the champion,
unless told.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.settings import Settings
from tasks.evaluate.evaluate import evaluate as measure
from tasks.monitor.watch import watching
from tasks.promote.champion import champion_of, watch_champion

__all__ = ["evaluate"]


@flow(name="evaluate")
def evaluate(settings: Settings, checkpoint: str | None = None) -> dict[str, Any]:
    """Measure a checkpoint, or the champion, and return the evaluation; tell of it if the champion
    regressed.

    Args: settings: What the run is told; the rest comes from the worker's environment, or is the
        default. checkpoint: A checkpoint; none: the champion.
    """
    name = checkpoint or champion_of(settings)
    with watching(settings):
        found = measure(settings, name)
    watch_champion(settings, name, found)
    return found
