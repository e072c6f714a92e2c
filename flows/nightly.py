"""The night run: class names in, a published dataset version out.

plan → synthesize → refine → select → compose → select → publish, and before the first select, if
asked for, noise learning over the whole run. A task makes one stage of some shards and leaves them
in the store, so running the flow again with the same settings does what is missing and nothing
else.
"""

from __future__ import annotations

from prefect import flow

from infra.clusters import check_starts, task_runner
from infra.settings import Settings
from tasks.compose.scenes import compose
from tasks.monitor.watch import watching
from tasks.plan.prepare import Shards, prepare
from tasks.publish.version import folders, is_published, publish, publish_shards, remind
from tasks.refine.affinity import learn_affinity
from tasks.refine.labels import refine
from tasks.report.page import report
from tasks.run.progress import from_workers
from tasks.run.stages import Failures, Futures, NightFailedError, Stages, lost
from tasks.select.judge import screen, select
from tasks.select.noise_learning import hold_out, learn_fold, rank
from tasks.synthesize import synthesize

__all__ = ["nightly"]

MOST_LOSSES = 5  # of workers and schedulers, after which a person shall look


@flow(name="nightly")
def nightly(settings: Settings) -> str:
    """Make and publish the dataset of these settings; returns the version's name.

    Raises for bad settings before anything expensive starts, and `NightFailedError` if shards are
    missing at the end, unless the settings publish without them.

    Args: settings: What the run is told; the rest comes from the worker's environment, or is the
        default.
    """
    check_starts()
    settings, shards = prepare(settings)
    if is_published(settings):
        return publish(settings, shards.all)
    remind(settings)
    with watching(settings):
        return _night(settings, shards)


def _night(settings: Settings, shards: Shards) -> str:
    failed = _make(settings, shards)
    missing = [shard for shard in shards.all if shard in failed]
    if failed and not (settings.publish.partial and 0 < len(missing) < len(shards.all)):
        raise NightFailedError(failed)
    report(settings)
    return publish(settings, shards.all, without=missing)


def _make(settings: Settings, shards: Shards) -> Failures:
    """Make all shards.

    Where a worker died, what that took along is tried once more, each shard by itself; where Dask's
    scheduler died, what is missing is tried again with the next one.
    """
    make = make_shards.with_options(task_runner=task_runner(settings.compute))
    failed, alone = make(settings, shards), False
    for _ in range(MOST_LOSSES):
        if lost("worker", failed) and not alone:
            alone = True
        elif not lost("scheduler", failed):
            break
        failed = make(settings, shards, alone=alone)
    return failed


@flow(name="make-shards")
def make_shards(settings: Settings, shards: Shards, alone: bool = False) -> Failures:
    """Fan the shards that are not in the store out to the task runner, through their stages; return
    what failed.
    """
    from_workers()
    stages = Stages(settings, folders(settings), shards.all, alone)
    made = stages.each(synthesize, shards.generated, gpu=True)
    affine = (
        stages.once(learn_affinity, after=made) if settings.refine.method == "diffumask" else {}
    )
    labelled = stages.each(refine, shards.generated, made, whole=[affine])
    ranked = learn_noise(settings, stages, shards, labelled) if settings.select.folds else {}
    chosen = stages.each(select, shards.generated, labelled, whole=[ranked])
    scenes = stages.each(compose, shards.composed, whole=[chosen])
    judged = stages.each(select, shards.composed, scenes)
    stages.each(publish_shards, shards.all, chosen | judged)
    return stages.failures()


def learn_noise(settings: Settings, stages: Stages, shards: Shards, labelled: Futures) -> Futures:
    """Screen the shards, train a network a fold, let each judge what it never saw, and rank what
    they say.
    """
    screened = stages.each(screen, shards.generated, labelled)
    taught = stages.once(learn_fold, *range(settings.select.folds), after=screened, gpu=True)
    judged = stages.each(hold_out, shards.generated, whole=[taught], gpu=True)
    return stages.once(rank, after=judged)
