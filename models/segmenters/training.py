"""Training through mmengine's Runner: seeded, quiet, resumable, in the faster precision."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Sequence, Sized
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.segmenters.hooks import Anneal, Begin, Curve
from models.segmenters.networks import Segmenter, build_segmenter
from models.segmenters.openmmlab import QuietRunner, isolated
from models.segmenters.precision import probe_precision
from models.segmenters.rates import Rates, rates_of
from models.segmenters.recipe import Execution, Trained, TrainingRecipe
from models.segmenters.samples import TrainingView, Views, collate
from models.segmenters.schedules import ConfigSchedule, ConfigViews, read_schedule
from models.segmenters.snapshots import Resume, read_snapshot
from models.segmenters.weights import Loaded, load_weights

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
    atomic additions. Raises `ValueError` for an empty set, and for a sample or weights that do not
    fit; `TrainingError` if the loss is not finite.
    """
    begun = time.perf_counter()
    device = execution.resolve_device()
    schedule = read_schedule(recipe.config) if recipe.schedule == "config" else None
    crop = recipe.crop or (schedule and schedule.crop) or _first_size(samples)
    notes: dict[str, Any] = {"recipe": asdict(recipe), "classes": list(classes), "crop": crop}
    curve = Curve(recipe.steps, recipe.batch_size, execution.every, execution.progress)
    with isolated():
        saved = read_snapshot(execution.snapshots, notes)
        torch.manual_seed(recipe.seed)
        segmenter = build_segmenter(recipe.config, classes)
        found = saved["notes"] if saved else {"step": 0}
        notes["precision"] = found.get("precision") or _precision(segmenter, recipe, crop, device)
        views = _views(recipe, crop, len(classes), schedule)
        view = TrainingView(samples, views, found["step"] * recipe.batch_size)
        files = [] if start else [load_weights(segmenter.network, file) for file in recipe.weights]
        resume = [Resume(each, notes, curve, saved) for each in [execution.snapshots] if each]
        hooks = [curve, _begin(start, files), Anneal(recipe.steps), *resume]
        network = segmenter.network.to(device)
        rates = rates_of(network, recipe, schedule, notes["precision"], device)
        _run(network, recipe, device, _loader(view, recipe, execution.workers), rates, hooks)
    network.to("cpu").eval()
    used = [file.summary() for file in files]
    return Trained(segmenter, curve.rows, notes["precision"], time.perf_counter() - begun, used)


def _begin(start: Segmenter | None, files: Sequence[Loaded]) -> Begin:
    if start:
        return Begin(start.network.state_dict(), whole=True)
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= file.state
    return Begin(weights, whole=False)


def _first_size(samples: Dataset[Any]) -> tuple[int, int]:
    """Return (H, W) of the first sample."""
    if not len(cast(Sized, samples)):
        raise ValueError(
            "the labelled set is empty; give a version or folder with at least one sample"
        )
    return cast(tuple[int, int], tuple(samples[0]["label"].shape))


def _run(
    network: torch.nn.Module,
    recipe: TrainingRecipe,
    device: str,
    loader: DataLoader[dict[str, Any]],
    rates: Rates,
    hooks: Sequence[Any],
) -> None:
    """Run all steps of a training by mmengine."""
    loop = {
        "type": "IterBasedTrainLoop",
        "max_iters": recipe.steps,
        "fast_forward_on_resume": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        QuietRunner(
            device=device,
            model=network,
            work_dir=folder,
            experiment_name=uuid.uuid4().hex,
            train_dataloader=loader,
            train_cfg=loop,
            optim_wrapper=rates.optimiser,
            custom_hooks=[*hooks, rates.hook],
            randomness={"seed": recipe.seed},
        ).train()


def _precision(
    segmenter: Segmenter, recipe: TrainingRecipe, crop: tuple[int, int], device: str
) -> str:
    if recipe.precision != "auto":
        return recipe.precision
    return probe_precision(segmenter.network, (recipe.batch_size, *crop), device)


def _views(
    recipe: TrainingRecipe,
    crop: tuple[int, int],
    num_classes: int,
    schedule: ConfigSchedule | None,
) -> Views:
    length = recipe.steps * recipe.batch_size
    own = ConfigViews(schedule) if schedule else None
    return Views(length, num_classes, crop, recipe.scale, recipe.seed, recipe.augmentation, own)


def _loader(view: TrainingView, recipe: TrainingRecipe, workers: int) -> DataLoader[dict[str, Any]]:
    context = "spawn" if workers else None  # forked workers deadlock with an open object store
    # its own generator: with torch's, opening a loader would shift the draws of a resumed training
    options: dict[str, Any] = {
        "multiprocessing_context": context,
        "num_workers": workers,
        "generator": torch.Generator(),
    }
    return DataLoader(view, recipe.batch_size, collate_fn=collate, **options)
