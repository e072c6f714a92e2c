"""Pace: how many steps each model makes in equal minutes, by its speed before the training.

The steps are written to the store before any training starts. So a comparison that was stopped
goes on with the same recipes, and a training's result depends on its recipe as everywhere else.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefect import task

from infra.blocks import open_store
from infra.clusters import gpu_slot
from infra.settings import Settings
from infra.store import SegmentationDataset, Store, StoreError, read_version
from tasks.compare.plan import Plan, training_settings
from tasks.schemas import Pace, origin_of
from tasks.train.protocols import Protocol, protocol_of, training_set
from tasks.train.recipe import recipe_of
from tasks.train.train import class_names

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import TrainingRecipe

__all__ = ["measure_pace", "steps_of"]

_EVERY = 4  # steps of one measurement
_TRIALS = 4  # measurements; the first one also warms up and is left out


def measure_pace(
    store: Store,
    version: str,
    recipe: TrainingRecipe,
    protocol: Protocol,
    *,
    gpus: int = 1,
    workers: int = 0,
) -> float:
    """Return images per second of the first steps of a training, the median of three.

    It is measured on `version` alone, also if the training reads more versions. `gpus` processes
    share each batch, and `workers` load the data of each. Raises `ValueError` for a number of
    processes that cannot share a batch.
    """
    from models.segmenters import Execution, train_segmenter

    classes = class_names(origin_of(read_version(store, version)).classes)
    published = SegmentationDataset(store.url, version, store.options)
    samples = training_set(protocol, published, classes)
    rows: list[dict[str, float]] = []
    trial = replace(recipe, steps=_EVERY * _TRIALS)
    how: dict[str, Any] = {"gpus": gpus, "workers": workers}
    execution = Execution(**how, progress=rows.append, every=_EVERY)
    train_segmenter(samples, classes, trial, execution)
    return statistics.median(row["images_per_second"] for row in rows[1:])


@task(name="pace", task_run_name="pace {plan.name}")
def steps_of(settings: Settings, plan: Plan) -> dict[str, int | None]:
    """Return the steps of each model; None for those of the settings.

    With `compare.minutes`, they are what each model makes in that time, as measured here or by an
    earlier run of the same comparison.
    """
    minutes = settings.compare.minutes
    if minutes is None or plan.version is None:
        return dict.fromkeys(plan.models)
    store = open_store(settings.store)
    path = f"comparisons/{plan.name}/pace.json"
    if store.exists(path):
        return _read(store, path, plan)
    found: dict[str, Any] = {"minutes": minutes, "images_per_second": {}, "steps": {}}
    how = {"gpus": settings.train.gpus, "workers": settings.train.workers}
    for model in plan.models:
        recipe = recipe_of(training_settings(settings, model).train, settings.seed)
        with gpu_slot(settings.compute, settings.train.gpus):
            pace = measure_pace(store, plan.version, recipe, protocol_of(settings), **how)
        found["images_per_second"][model] = pace
        found["steps"][model] = max(1, round(60 * minutes * pace / recipe.batch_size))
    store.write_json(path, found)
    return dict(found["steps"])


def _read(store: Store, path: str, plan: Plan) -> dict[str, int | None]:
    steps = store.read_json(path, Pace)["steps"]
    if set(steps) != set(plan.models):
        raise StoreError(
            f"{store.url}/{path} has steps for {', '.join(steps)}, not for "
            f"{', '.join(plan.models)}; delete it to measure again"
        )
    return dict(steps)
