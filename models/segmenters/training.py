"""Training through mmengine's Runner: seeded, quiet, resumable, in the faster precision."""

from __future__ import annotations

import time
from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from models.companions import DeadProcessError
from models.parallel import side_by_side
from models.segmenters.averaging import choose_weights, split_samples
from models.segmenters.hooks import TrainingError
from models.segmenters.networks import Segmenter
from models.segmenters.openmmlab import isolated
from models.segmenters.recipe import Execution, Trained, TrainingRecipe
from models.segmenters.running import Done, Job, run

__all__ = ["train_segmenter"]


def train_segmenter(
    samples: Dataset[Any],
    classes: Sequence[str],
    recipe: TrainingRecipe,
    execution: Execution = Execution(),
    *,
    start: Segmenter | None = None,
) -> Trained:
    """Train `recipe.config` on a labelled set; return the network in evaluation mode, on the CPU.

    Initial weights are those of `start` (same config and classes), of the recipe, or random.

    On one machine with one number of threads, equal samples, recipe and precision give equal
    weights, on a CPU bit for bit, interrupted or not. On CUDA two runs differ by the order of
    atomic additions. Several processes (`execution.gpus`) give those of one process but for
    rounding; this one is the first of them, and does all reading and writing of snapshots.

    Raises `ValueError` for an empty set, and for a sample, weights or a number of processes that
    do not fit; `TrainingError` if the loss is not finite or a process was killed.
    """
    begun = time.perf_counter()
    execution.check(recipe.batch_size)
    if not len(cast(Sized, samples)):
        raise ValueError(
            "the labelled set is empty; give a version or folder with at least one sample"
        )
    training, held_out = split_samples(samples, recipe.ema)
    weights = start.network.state_dict() if start else None
    done = _in_processes(Job(training, tuple(classes), recipe, execution, weights))
    chosen = None
    if held_out is not None:
        device = execution.resolve_device()
        chosen = choose_weights(done.segmenter, done.average, held_out, device)
    done.segmenter.network.to("cpu", torch.float32).eval()
    seconds = time.perf_counter() - begun
    return Trained(done.segmenter, done.curve, done.precision, seconds, done.weights, chosen)


def _in_processes(job: Job) -> Done:
    """Run a job in this process, and its silent copies in the others."""
    execution = job.execution
    silent = replace(job, execution=replace(execution, progress=None, snapshots=None))
    cuda = execution.resolve_device() == "cuda"
    try:
        with isolated(), side_by_side(execution.gpus, run, silent, cuda=cuda):
            return run(job)
    except DeadProcessError as error:
        raise TrainingError(str(error)) from None
