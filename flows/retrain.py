"""Retraining: a published version in, a segmenter out, measured and, if it is better, made the champion."""

from __future__ import annotations

from prefect import flow

from infra.settings import Settings
from tasks.evaluate import evaluate
from tasks.promote import Promotion, promote
from tasks.report import report
from tasks.train import train

__all__ = ["retrain"]


@flow(name="retrain")
def retrain(settings: Settings, version: str) -> Promotion:
    """Train on a version, evaluate, promote, and plan the next night's budget; each step resumes if it was stopped."""
    checkpoint = train(settings, version)
    evaluate(settings, checkpoint)
    outcome = promote(settings, checkpoint)
    report(settings)
    return outcome
