"""What each process of a training does: the first one alone, or all of them on parts of a batch."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.parallel import agree, rank_and_count
from models.segmenters.averaging import averaging
from models.segmenters.hooks import Begin, Curve, Stages
from models.segmenters.networks import Segmenter, build_segmenter
from models.segmenters.openmmlab import QuietRunner, isolated
from models.segmenters.precision import probe_precision
from models.segmenters.rates import Rates, rates_of
from models.segmenters.recipe import Execution, TrainingRecipe
from models.segmenters.samples import TrainingView, Views, collate
from models.segmenters.schedules import ConfigSchedule, ConfigViews, read_schedule
from models.segmenters.sharing import Draws, Part, share_batches
from models.segmenters.snapshots import Resume, read_snapshot
from models.segmenters.weights import Loaded, load_weights

__all__ = ["Done", "Job", "run"]


@dataclass(frozen=True)
class Job:
    """A training: a labelled set, the names of its label ids, the recipe, and how it runs.

    `start` are initial weights of the whole network. The job of every process but the first has no
    `progress` and no `snapshots`.
    """

    samples: Dataset[Any]
    classes: tuple[str, ...]
    recipe: TrainingRecipe
    execution: Execution
    start: Mapping[str, Tensor] | None = None


class Done(NamedTuple):
    """A trained network, its curve and precision, what was used of the initial weights' files.

    `average` are the averaged weights, empty without `ema`.
    """

    segmenter: Segmenter
    curve: list[dict[str, float]]
    precision: str
    weights: list[dict[str, Any]]
    average: dict[str, Tensor]


def run(job: Job) -> Done:
    """Do this process's part of a training, from its beginning or its snapshot to its end."""
    recipe, execution = job.recipe, job.execution
    device = execution.resolve_device()
    schedule = read_schedule(recipe.config) if recipe.schedule == "config" else None
    crop = recipe.crop or (schedule and schedule.crop) or _first_size(job.samples)
    notes: dict[str, Any] = {
        "recipe": recipe.identity(),
        "classes": list(job.classes),
        "crop": crop,
    }
    curve = Curve(recipe.steps, recipe.batch_size, execution.every, execution.progress)
    with isolated():
        saved = agree(read_snapshot(execution.snapshots, notes))
        torch.manual_seed(recipe.seed)
        segmenter = build_segmenter(recipe.config, job.classes)
        found = saved["notes"] if saved else {"step": 0}
        notes["precision"] = found.get("precision") or _precision(segmenter, recipe, crop, device)
        views = _views(recipe, crop, len(job.classes), schedule)
        view = TrainingView(job.samples, views, found["step"] * recipe.batch_size)
        given = () if job.start else recipe.weights
        files = [load_weights(segmenter.network, f, segmenter.classes) for f in given]
        average = averaging(recipe.ema) if recipe.ema else None
        resume = Resume(execution.snapshots, notes, curve, saved, average)
        hooks = [curve, Stages(), *_shared(segmenter, recipe), _begin(job.start, files), resume]
        hooks += [average] if average else []
        network = segmenter.network.to(device)
        if notes["precision"] == "fp64":
            network.double()
        rates = rates_of(network, recipe, schedule, notes["precision"], device)
        _steps(network, recipe, device, _loader(view, recipe, execution.workers), rates, hooks)
    averaged = average.ema_model.module.state_dict() if average else {}
    used = [file.summary() for file in files]
    return Done(segmenter, curve.rows, notes["precision"], used, averaged)


def _shared(segmenter: Segmenter, recipe: TrainingRecipe) -> list[Draws]:
    """Prepare a network for a batch that several processes share; return the hooks it needs."""
    if rank_and_count()[1] == 1:
        return []
    share_batches(segmenter.network)
    return [Draws(recipe.seed)]


def _begin(start: Mapping[str, Tensor] | None, files: Sequence[Loaded]) -> Begin:
    if start:
        return Begin(start, whole=True)
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= file.state
    return Begin(weights, whole=False)


def _first_size(samples: Dataset[Any]) -> tuple[int, int]:
    """Return (H, W) of the first sample."""
    return cast(tuple[int, int], tuple(samples[0]["label"].shape))


def _steps(
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
    shape = (recipe.batch_size // rank_and_count()[1], *crop)
    return probe_precision(segmenter.network, shape, device)


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
    part = Part(view, recipe.batch_size)
    context = "spawn" if workers else None  # forked workers deadlock with an open object store
    # its own generator: with torch's, opening a loader would shift the draws of a resumed training
    options: dict[str, Any] = {
        "multiprocessing_context": context,
        "num_workers": workers,
        "generator": torch.Generator(),
    }
    return DataLoader(part, recipe.batch_size // rank_and_count()[1], collate_fn=collate, **options)
