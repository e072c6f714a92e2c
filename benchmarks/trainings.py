"""The trainings of benchmarks: made as `segmint train` makes them, and each of them once.

    out/benchmarks/trainings/<key>/snapshot.safetensors   while it runs: where a restart resumes
    out/benchmarks/trainings/<key>/meta.json, weights …   the checkpoint
    out/benchmarks/trainings/<key>/evaluation.json        the result, on held-out drawn scenes

The key covers recipe, samples, held-out scenes, and the code that draws, trains and measures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from benchmarks.claims import CACHE, Size
from benchmarks.sources import TRAINING, key
from infra.settings import Settings, TrainSettings
from infra.store import Store
from models.segmenters import ArraySet, DrawnScenes, TrainingRecipe, shares_of
from tasks.evaluate.measure import evaluate_segmenter
from tasks.evaluate.sets import drawn_truth
from tasks.train.checkpoints import load_folder
from tasks.train.recipe import recipe_of
from tasks.train.train import TrainingJob, finish_training

__all__ = [
    "HELD_OUT",
    "InMemory",
    "Training",
    "drawn_training",
    "mious",
    "recipe_for",
    "results",
    "side_by_side",
]

STEPS = {"quick": 20, "full": 20_000}  # the default size takes the settings' own number of steps
HELD_OUT = {"quick": 20, "default": 500, "full": 2000}  # drawn scenes to measure on


@dataclass(frozen=True)
class Training:
    """One training and the scenes that its network is measured on.

    `content` says what `samples` holds, down to the bytes: a digest, or how it is drawn. `start` is
    the key of a finished training whose network this one starts from.
    """

    name: str
    samples: Dataset[Any]
    content: str
    classes: tuple[str, ...]
    recipe: TrainingRecipe
    held_out: int
    start: str = ""

    def key(self) -> str:
        """Return the name of its folder in the cache."""
        begun = (self.start,) if self.start else ()
        known = (asdict(self.recipe), self.content, self.classes, self.held_out, *begun)
        slug = re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"{slug}-{self.recipe.seed}-{key(*known, code=_code())}"


class InMemory(Dataset[Any]):
    """A set whose items stay in memory once they were read; drawn from by the same shares."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.shares = shares_of(samples)
        self._samples = samples
        self._items: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(cast(Sized, self._samples))

    def __getitem__(self, index: int) -> Any:
        if index not in self._items:
            self._items[index] = self._samples[index]
        return self._items[index]


@cache
def _code() -> str:
    return TRAINING.digest()  # once, so that an edit meanwhile leaves all keys of a run alike


def recipe_for(size: Size, seed: int = 0, train: TrainSettings | None = None) -> TrainingRecipe:
    """Return the recipe of a user's training with default settings, or with those of `train`.

    Quick and full runs change the number of steps.
    """
    recipe = recipe_of(train or Settings().train, seed)
    return replace(recipe, steps=STEPS.get(size, recipe.steps))


def drawn_training(
    name: str, count: int, classes: tuple[str, ...], recipe: TrainingRecipe, held_out: int
) -> Training:
    """Return the training on the first `count` scenes of the drawn world, with exact labels."""
    scenes = ArraySet(DrawnScenes(count, first=0), classes)
    return Training(name, scenes, f"{count} drawn scenes", classes, recipe, held_out)


def mious(
    trainings: Mapping[str, Callable[[int], Training]], seeds: int
) -> dict[str, NDArray[np.float64]]:
    """Return the mIoU of each named training for the seeds 0, 1, …, and print mean and spread."""
    jobs = [(name, make(seed)) for name, make in trainings.items() for seed in range(seeds)]
    evaluations = results([training for _, training in jobs])
    found: dict[str, list[float]] = {name: [] for name in trainings}
    for (name, _), evaluation in zip(jobs, evaluations, strict=True):
        found[name].append(evaluation["miou"])
    scores = {name: np.array(values) for name, values in found.items()}
    for name, values in scores.items():
        print(f"{name}: mIoU {values.mean():.3f} ± {values.std():.3f}, {len(values)} seeds")
    return scores


def results(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """Return the evaluation of each training, as JSON; those that are cached are not made again.

    Trainings run side by side, one per core. Two with equal keys are made once.
    """
    keys = [training.key() for training in trainings]
    evaluations = []
    with side_by_side() as workers:
        waiting: dict[str, Future[dict[str, Any]]] = {}
        for training, folder in zip(trainings, keys, strict=True):
            if folder not in waiting:
                waiting[folder] = workers.submit(_result, training, folder)
        for training, folder in zip(trainings, keys, strict=True):
            evaluation = waiting[folder].result()
            ious = {label: round(iou or 0.0, 3) for label, iou in evaluation["iou"].items()}
            title = f"{training.name}, seed {training.recipe.seed}"
            print(f"{title}: mIoU {evaluation['miou']:.3f}", ious, flush=True)
            evaluations.append(evaluation)
    return evaluations


@contextmanager
def side_by_side() -> Iterator[ProcessPoolExecutor]:
    """One process per core, each with one thread for tensors; what waits is dropped on an error."""
    spawn = get_context("spawn")
    workers = ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,))
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)


def _result(training: Training, folder: str) -> dict[str, Any]:
    """Train, or resume, and measure, unless the cache has the result."""
    store = Store.open(str(CACHE / "trainings"))
    path = f"{folder}/evaluation.json"
    if not store.exists(path):
        if not store.exists(f"{folder}/meta.json"):
            start = load_folder(store, training.start) if training.start else None
            job = TrainingJob(training.samples, training.classes, training.recipe, start)
            origin = {"training": training.name}
            finish_training(store, folder, job, origin, progress=_printer(training))
        truth = drawn_truth(training.held_out, training.classes)
        found = evaluate_segmenter(load_folder(store, folder), truth, "held-out drawn scenes")
        store.write_json(path, asdict(found))
    evaluation: dict[str, Any] = store.read_json(path)
    return evaluation


def _printer(training: Training) -> Callable[[dict[str, float]], None]:
    def show(row: dict[str, float]) -> None:
        if row["step"] % 100 == 0:
            done = f"step {row['step']:.0f} of {row['steps']:.0f}, loss {row['loss']:.3f}"
            rate = f"{row['images_per_second']:.0f} images per second"
            print(f"{training.name}, seed {training.recipe.seed}: {done}, {rate}", flush=True)

    return show
