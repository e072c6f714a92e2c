"""The nightly run: class names in, a published dataset version out.

plan → synthesize → refine → select → compose → select → publish. With `select.folds`, noise
learning over the whole run comes before the first select. A task makes one stage of some shards
and stores them. So running the flow again with the same settings makes only what is missing.
"""

from __future__ import annotations

from prefect import flow

from infra.clusters import check_starts, task_runner
from infra.settings import Settings
from tasks.compose.scenes import compose
from tasks.monitor.watch import watching
from tasks.plan.prepare import Shards, prepare
from tasks.publish.samples import publish_shards
from tasks.publish.version import is_published, publish, remind
from tasks.refine.affinity import learn_affinity
from tasks.refine.labels import refine
from tasks.report.page import report
from tasks.run.failures import Failures, NightFailedError, is_lost
from tasks.run.names import run_name
from tasks.run.progress import from_workers
from tasks.run.stages import Futures, Stages
from tasks.select.noise_learning import hold_out, learn_fold, rank
from tasks.select.select import screen, select
from tasks.synthesize import synthesize

__all__ = ["nightly"]

MOST_LOSSES = 5  # of workers and schedulers before the run fails and a person has to look


@flow(name="nightly", flow_run_name=run_name)
def nightly(settings: Settings) -> str:
    """Make and publish the dataset of these settings; return the version's name.

    Raises for bad settings before anything expensive starts. Raises `NightFailedError` if shards
    are missing at the end, unless the settings publish without them.

    Args:
        settings: Settings of the run; those left out come from the worker's environment, or have
            their default.
    """
    check_starts()
    settings, shards = prepare(settings)
    if is_published(settings):
        return publish(settings, shards.all)
    remind(settings)
    with watching(settings):
        failed = _make(settings, shards)
        missing = [shard for shard in shards.all if shard in failed]
        if failed and not (settings.publish.partial and 0 < len(missing) < len(shards.all)):
            raise NightFailedError(failed)
        report(settings)
        return publish(settings, shards.all, without=missing)


def _make(settings: Settings, shards: Shards) -> Failures:
    """Make all shards.

    After a worker died, its shards are tried once more, one per task. After Dask's scheduler died,
    missing shards are tried again with a new one.
    """
    make = make_shards.with_options(task_runner=task_runner(settings.compute))
    failed = make(settings, shards)
    alone = False
    for _ in range(MOST_LOSSES):
        if is_lost("worker", failed) and not alone:
            alone = True
        elif not is_lost("scheduler", failed):
            break
        failed = make(settings, shards, alone=alone)
    return failed


@flow(name="make-shards", flow_run_name="{settings.name} shards")
def make_shards(settings: Settings, shards: Shards, alone: bool = False) -> Failures:
    """Submit the shards that are missing in the store to the task runner, stage by stage.

    Returns what failed. With `alone`, each task makes a single shard.
    """
    from_workers()
    stages = Stages(settings, shards.all, alone)
    made = stages.each(synthesize, shards.generated, gpu=True)
    affinity: Futures = {}
    if settings.refine.method == "diffumask":
        affinity = stages.once(learn_affinity, after=made)
    looks = bool(settings.refine.labellers)  # a trained model looks at the images
    labelled = stages.each(refine, shards.generated, made, whole=[affinity], gpu=looks)
    ranked = learn_noise(settings, stages, shards, labelled) if settings.select.folds else {}
    chosen = stages.each(select, shards.generated, labelled, whole=[ranked])
    scenes = stages.each(compose, shards.composed, whole=[chosen])
    judged = stages.each(select, shards.composed, scenes)
    stages.each(publish_shards, shards.all, chosen | judged)
    return stages.failures()


def learn_noise(settings: Settings, stages: Stages, shards: Shards, labelled: Futures) -> Futures:
    """Screen the shards, train one network per fold, predict held-out samples, and rank them."""
    screened = stages.each(screen, shards.generated, labelled)
    trained = stages.once(learn_fold, *range(settings.select.folds), after=screened, gpu=True)
    held_out = stages.each(hold_out, shards.generated, whole=[trained], gpu=True)
    return stages.once(rank, after=held_out)
