"""Do two processes give the weights of one, and how much faster are they on two cores?

Both train the default preset on drawn scenes by the default recipe, with the same batches of 16.
The one process has all cores as threads, which is what a user gets who sets nothing; with one
thread it is printed too. They take turns; medians of the steps count, without the first ones of
each turn.

Two trainings that differ in nothing but the order of their sums move apart, step by step: an
optimiser of normalised steps, such as Muon and AdamW, turns a rounding error of a tiny gradient
into a step of full length. So the weights are compared in double precision. What single precision
gives is printed, beside what it gives for one process with another number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.claims import Claim, Size, run
from infra.settings import TrainSettings
from models.segmenters import (
    ArraySet,
    DrawnScenes,
    Execution,
    Segmenter,
    TrainingRecipe,
    train_segmenter,
)
from tasks.train.recipe import recipe_of

SCENES = 256
STEPS = {"quick": 8, "default": 50, "full": 50}  # of the comparison of weights
TIMED = {"quick": 5, "default": 25, "full": 100}  # of a turn
SIDE = {"quick": 64, "default": 128, "full": 128}  # of the crops, in pixels
SKIPPED = 3  # steps at the beginning of a turn
ROUNDS = {"quick": 1, "default": 5, "full": 5}
CLASSES = DrawnScenes.classes


def main(size: Size) -> list[Claim]:
    recipe = recipe_of(TrainSettings(steps=STEPS[size]), seed=0)
    recipe = replace(recipe, precision="fp32", crop=(SIDE[size], SIDE[size]))
    largest = compared(recipe)
    timed = replace(recipe, steps=TIMED[size])
    one_thread, all_threads, processes = rates(timed, ROUNDS[size])
    print(f"one process with one thread: {one_thread:.1f} pictures per second")
    print(f"one process with all threads: {all_threads:.1f}; two processes: {processes:.1f}")
    return [
        Claim("largest difference of weights, double precision", largest, "<= 1e-4"),
        Claim("pictures per second, two processes over one", processes / all_threads, ">= 1.5"),
    ]


def compared(recipe: TrainingRecipe) -> float:
    """Return the largest difference of a weight in double precision; print that in single."""
    double = replace(recipe, precision="fp64")
    with threads(1):
        exact = difference(trained(double, 1), trained(double, 2))
        one = trained(recipe, 1)
        pair = difference(one, trained(recipe, 2))
    with threads(os.cpu_count() or 1):
        control = difference(one, trained(recipe, 1))
    print(f"double precision, two processes and one: {exact:.1e}")
    print(
        f"single precision, two processes and one: {pair:.1e}; all threads and one: {control:.1e}"
    )
    return exact


def difference(one: Segmenter, other: Segmenter) -> float:
    theirs = dict(other.network.named_parameters())
    pairs = [(value, theirs[name]) for name, value in one.network.named_parameters()]
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def trained(recipe: TrainingRecipe, processes: int, progress: Any = None) -> Segmenter:
    samples = ArraySet(DrawnScenes(SCENES, first=0), CLASSES)
    execution = Execution("cpu", processes, every=1, progress=progress)
    return train_segmenter(samples, CLASSES, recipe, execution).segmenter


def rates(recipe: TrainingRecipe, rounds: int) -> tuple[float, ...]:
    """Return pictures per second: one thread, one process with all threads, two processes."""
    every = os.cpu_count() or 1
    ways = {(1, 1): [], (1, every): [], (2, every): []}  # type: dict[tuple[int, int], list[float]]
    for _ in range(rounds):
        for (processes, count), seconds in ways.items():
            ends: list[float] = []
            with threads(count):
                trained(recipe, processes, lambda row, ends=ends: ends.append(time.perf_counter()))
            seconds += list(np.diff(ends)[SKIPPED - 1 :])
    return tuple(recipe.batch_size / float(np.median(seconds)) for seconds in ways.values())


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    run("launcher", main)
