"""The night run: class names in, a published dataset version out.

plan → synthesize → refine → select → compose → select → publish, and before the first select, if asked for, noise
learning over the whole run. A task makes one shard and leaves it in the store, so running
the flow again with the same settings does what is missing and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect import Task, flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait

from infra.clusters import gpu_work, task_runner
from infra.settings import Settings
from tasks.affinity import learn_affinity
from tasks.compose import compose
from tasks.folds import hold_out, learn_fold, rank
from tasks.prepare import Shards, prepare
from tasks.publish import publish, publish_shard
from tasks.refine import refine
from tasks.report import report
from tasks.select import screen, select
from tasks.synthesize import synthesize

__all__ = ["ShardsFailedError", "nightly"]

Future = PrefectFuture[Any]
Futures = dict[int, Future]


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

    with gpu_work(settings.compute):
        made = {s: _submit(synthesize, settings, s) for s in shards.generated}
    affine = [_submit(learn_affinity, settings, after=made.values())] if settings.refine.method == "diffumask" else []
    labelled = {s: _submit(refine, settings, s, after=[made[s], *affine]) for s in shards.generated}
    learnt = learn_noise(settings, labelled) if settings.select.folds else {}
    ranked = learnt.get("rank", {}).values()
    chosen = {s: _submit(select, settings, s, after=[labelled[s], *ranked]) for s in shards.generated}
    scenes = {s: _submit(compose, settings, s, after=chosen.values()) for s in shards.composed}
    chosen |= {s: _submit(select, settings, s, after=[scenes[s]]) for s in shards.composed}
    published = {s: _submit(publish_shard, settings, s, after=[last]) for s, last in chosen.items()}
    made_first = {"synthesize": made, "refine": labelled, **learnt}
    _finish(made_first | {"compose": scenes, "select": chosen, "publish": published})


def learn_noise(settings: Settings, labelled: Futures) -> dict[str, Futures]:
    """Screen the shards, train a network a fold, let each judge what it never saw, and rank what they say."""
    screened = {s: _submit(screen, settings, s, after=[last]) for s, last in labelled.items()}
    folds = range(settings.select.folds)
    with gpu_work(settings.compute):
        taught = {fold: _submit(learn_fold, settings, fold, after=screened.values()) for fold in folds}
        judged = {s: _submit(hold_out, settings, s, after=taught.values()) for s in labelled}
    ranked = {max(labelled): _submit(rank, settings, after=judged.values())}
    return {"screen": screened, "learn-fold": taught, "hold-out": judged, "rank": ranked}


def _submit(stage: Task[..., Any], *given: Any, after: Iterable[Future] = ()) -> Future:
    return stage.submit(*given, return_state=False, wait_for=list(after))


def _finish(stages: dict[str, Futures]) -> None:
    """Wait for every task, then name the first that failed of each shard and fold."""
    wait([future for futures in stages.values() for future in futures.values()])
    failed: dict[str, str] = {}
    for stage, futures in stages.items():
        for number, future in futures.items():
            if not future.state.is_completed():
                what = f"fold {number}" if stage == "learn-fold" else f"shard {number:05d}"
                failed.setdefault(what, f"{what}: {stage} {_reason(future.state)}")
    if failed:
        raise ShardsFailedError(
            "; ".join(failed.values()) + ". Everything finished is in the store: mend the cause and start the run again"
        )


def _reason(state: State[Any]) -> str:
    return str(state.message or state.name).removeprefix("Task run encountered an exception ")
