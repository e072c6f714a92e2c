"""Retraining: a published version in, a segmenter out, measured and, if it is better, made the
champion.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.clusters import check_starts
from infra.settings import Settings
from tasks.evaluate.evaluate import evaluate
from tasks.monitor.watch import watching
from tasks.promote.champion import promote
from tasks.publish.version import run_of
from tasks.report.page import report
from tasks.train.train import train

__all__ = ["retrain"]


@flow(name="retrain")
def retrain(settings: Settings, version: str) -> dict[str, Any]:
    """Train on a version, evaluate, promote, and plan the next night's budget; each step resumes if
    it was stopped.

    Returns what `promote` tells: the champion, whether and why it moved, and the challenger with
    its evaluation.

    Args: settings: What the run is told; the rest comes from the worker's environment, or is the
        default. version: A published version; `segmint versions` lists them.
    """
    check_starts()
    with watching(settings):
        checkpoint = train(settings, version)
        evaluation = evaluate(settings, checkpoint)
        outcome = promote(settings, checkpoint, evaluation["fingerprint"])
        report(settings, run=run_of(settings, version))
    return outcome
