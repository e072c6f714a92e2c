"""Comparison: several segmenters on one set, trained already or here, on one page."""

from __future__ import annotations

from typing import Any

from prefect import flow

from infra.blocks import open_store
from infra.clusters import check_starts
from infra.settings import Settings
from tasks.compare.compare import record_comparison
from tasks.compare.pace import steps_of
from tasks.compare.plan import plan_comparison, training_settings
from tasks.evaluate.evaluate import evaluate
from tasks.monitor.watch import watching
from tasks.plan.resolve import for_version
from tasks.run.names import comparison_name
from tasks.train.train import train

__all__ = ["compare"]


@flow(name="compare", flow_run_name=comparison_name)
def compare(
    settings: Settings, checkpoints: list[str] | None = None, version: str | None = None
) -> dict[str, Any]:
    """Measure segmenters on the set that the settings name; return all figures.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default. `compare.models` are trained on `version` first.
        checkpoints: Checkpoints, the first of which the others are compared with. A single one is
            compared with the champion.
        version: A published version. Only with `compare.models`.
    """
    check_starts()
    if version:
        settings = for_version(open_store(settings.store), settings, version)
    plan = plan_comparison(settings, checkpoints or [], version)
    with watching(settings):
        steps = steps_of(settings, plan)
        trained = [
            train(training_settings(settings, model, steps[model]), version, in_report=False)
            for model in plan.models
            if version
        ]
        names = [*plan.checkpoints, *trained]
        evaluations = [evaluate(settings, name, in_report=False) for name in names]
        return record_comparison(settings, plan, names, evaluations)
