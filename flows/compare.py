"""Comparison: two checkpoints on one set, class by class."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.settings import Settings
from tasks.evaluate.compare import tell_comparison
from tasks.evaluate.evaluate import evaluate
from tasks.monitor.watch import watching
from tasks.promote.champion import champion_of

__all__ = ["compare"]


@flow(name="compare")
def compare(settings: Settings, second: str, first: str | None = None) -> list[dict[str, Any]]:
    """Measure two checkpoints (the first is the champion, unless named) on the settings' set;
    return what differs.

    Args: settings: What the run is told; the rest comes from the worker's environment, or is the
        default. second: A checkpoint. first: Another one; none: the champion.
    """
    names = first or champion_of(settings), second
    with watching(settings):
        found = evaluate(settings, names[0]), evaluate(settings, names[1])
    return tell_comparison(settings, names, found)
