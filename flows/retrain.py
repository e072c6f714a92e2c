"""Retraining: a published version in, a measured segmenter out; it may become the champion."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.blocks import open_store
from infra.clusters import check_starts
from infra.settings import Settings
from tasks.evaluate.evaluate import evaluate
from tasks.monitor.watch import watching
from tasks.plan.resolve import for_version
from tasks.promote.champion import promote
from tasks.promote.survey import survey
from tasks.publish.version import run_of
from tasks.report.page import report
from tasks.train.train import train

__all__ = ["retrain"]


@flow(name="retrain", flow_run_name="{version}")
def retrain(settings: Settings, version: str) -> dict[str, Any]:
    """Train on a version, evaluate, promote, and set the next run's budget.

    Each step resumes if it was stopped. Returns the result of `promote`: the champion, whether and
    why it changed, and the challenger with its evaluation.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
        version: A published version; `segmint versions` lists them.
    """
    check_starts()
    settings = for_version(open_store(settings.store), settings, version)
    with watching(settings):
        checkpoint = train(settings, version)
        evaluation = evaluate(settings, checkpoint)
        survey(settings, version)
        outcome = promote(settings, checkpoint, evaluation["fingerprint"])
        report(settings, run=run_of(settings, version))
    return outcome
