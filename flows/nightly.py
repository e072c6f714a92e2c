"""The night run: class names in, a published dataset version out.

plan → synthesize → refine → compose → select → publish. A task makes one shard and leaves it in the store, so running
the flow again with the same settings does what is missing and nothing else.
"""

from __future__ import annotations

from prefect import Task, flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait

from infra.clusters import task_runner
from infra.settings import Settings
from infra.store import Marker
from tasks.compose import compose
from tasks.prepare import Shards, prepare
from tasks.publish import publish, publish_shard
from tasks.refine import refine
from tasks.report import report
from tasks.select import select
from tasks.synthesize import synthesize

__all__ = ["ShardsFailedError", "nightly"]

Stage = Task[[Settings, int], Marker]
Future = PrefectFuture[Marker]


class ShardsFailedError(RuntimeError):
    """Some shards could not be made. Finished ones are kept; running the flow again makes the rest."""


@flow(name="nightly")
def nightly(settings: Settings) -> str:
    """Make and publish the dataset of these settings; returns the version's name.

    Raises for bad settings before anything expensive starts, and `ShardsFailedError` if shards are missing at the end.
    """
    settings, shards = prepare(settings)
    make_shards.with_options(task_runner=task_runner(settings.compute))(settings, shards)
    report(settings)
    return publish(settings, [*shards.generated, *shards.composed])


@flow(name="make-shards")
def make_shards(settings: Settings, shards: Shards) -> None:
    """Fan the shards out to the task runner, each through its stages."""

    def submit(stage: Stage, shard: int, *after: Future) -> Future:
        return stage.submit(settings, shard, return_state=False, wait_for=after)

    made = {s: submit(synthesize, s) for s in shards.generated}
    labelled = {s: submit(refine, s, made[s]) for s in shards.generated}
    scenes = {s: submit(compose, s, *labelled.values()) for s in shards.composed}
    chosen = {s: submit(select, s, last) for s, last in (labelled | scenes).items()}
    published = {s: submit(publish_shard, s, last) for s, last in chosen.items()}
    _finish({"synthesize": made, "refine": labelled, "compose": scenes, "select": chosen, "publish": published})


def _finish(stages: dict[str, dict[int, Future]]) -> None:
    """Wait for every task, then name the first that failed of each shard."""
    wait([future for futures in stages.values() for future in futures.values()])
    failed: dict[int, str] = {}
    for stage, futures in stages.items():
        for shard, future in futures.items():
            if not future.state.is_completed():
                failed.setdefault(shard, f"shard {shard:05d}: {stage} {_reason(future.state)}")
    if failed:
        raise ShardsFailedError(
            "; ".join(failed.values()) + ". Everything finished is in the store: mend the cause and start the run again"
        )


def _reason(state: State[Marker]) -> str:
    return str(state.message or state.name).removeprefix("Task run encountered an exception ")
