"""Verify: is a run in the store complete and unchanged?"""

from __future__ import annotations

from infra.store import Problem, Store, StoreError, verify_run
from infra.store.verify import run_folder
from tasks.plan.prompts import PlanError
from tasks.plan.table import plan_path, stored_shards
from tasks.run.layout import STAGES, shard_name

__all__ = ["verify_stored_run"]


def verify_stored_run(store: Store, run: str) -> list[Problem]:
    """Everything that is wrong with a run: damage, and missing shards of stages that have begun.

    Each such stage has to have every shard of the plan with rows of its kind. Raises `MissingError`
    if there is no such run.
    """
    run_folder(store, run)
    try:
        generated, composed = stored_shards(store, run)
    except (StoreError, PlanError) as error:
        return [Problem(plan_path(run), str(error))]
    expected = {
        stage.name: [shard_name(shard) for shard in stage.shards(generated, composed)]
        for stage in STAGES
        if stage.in_run
    }
    return verify_run(store, run, expected)
