"""Training through mmengine's Runner: seeded, quiet, resumable, in the faster precision."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.muon import Muon
from models.segmenters.hooks import (
    Begin,
    Curve,
    Resume,
    Schedule,
    Schedulers,
    Snapshots,
    read_snapshot,
)
from models.segmenters.networks import Segmenter, build_segmenter
from models.segmenters.openmmlab import QuietRunner, isolated
from models.segmenters.precision import optim_wrapper, probe_precision
from models.segmenters.samples import Augmentation, TrainingView, Views, collate
from models.segmenters.schedules import ConfigSchedule, ConfigViews, read_schedule
from models.segmenters.weights import Loaded, WeightsFile, load_weights

__all__ = ["Execution", "Trained", "TrainingRecipe", "train_segmenter"]

# largest norm of a step's gradient; lets a transformer start from random weights at a high rate
_CLIP = 1.0


@dataclass(frozen=True)
class TrainingRecipe:
    """What decides the weights, apart from the data.

    `learning_rate` is the peak learning rate of `Muon`; `crop` is (H, W) in pixels, None for the
    first sample's size. `weights` are files of initial weights, later ones stronger; what they lack
    is random. With `schedule` "config", optimiser, decay, rates, crop and scaling are those of the
    config, and `weight_decay`, `warmup` and `scale` are not used. `precision` is "auto" (probed),
    "fp32", "bf16" or "fp16".
    """

    config: str
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: int = 100
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.75, 1.33)
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: tuple[WeightsFile, ...] = ()
    schedule: str = "segmint"
    seed: int = 0
    precision: str = "auto"


@dataclass(frozen=True)
class Execution:
    """How a training runs; on a CPU nothing of it changes the weights.

    `device` is "auto", "cpu" or "cuda". `workers` is the number of loading processes, 0 for none.
    `progress` gets a row of the curve every `every` steps, with `steps` and `images_per_second`.
    A training that finds its own state in `snapshots` resumes from it.
    """

    device: str = "auto"
    workers: int = 0
    progress: Callable[[dict[str, float]], None] | None = None
    every: int = 25
    snapshots: Snapshots | None = None

    def resolve_device(self) -> str:
        """Return the device; "auto" is CUDA if there is any, else the CPU."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Trained:
    """A segmenter, how it was trained, and its training curve.

    Rows of the curve are `step`, mean `loss` since the row before, and `learning_rate`. `weights`
    says of each file of initial weights how much of it was used (see `Loaded.summary`).
    """

    segmenter: Segmenter
    curve: list[dict[str, float]]
    precision: str
    seconds: float
    weights: list[dict[str, Any]]


def train_segmenter(
    samples: Dataset[Any],
    classes: Sequence[str],
    recipe: TrainingRecipe,
    execution: Execution = Execution(),
    *,
    start: Segmenter | None = None,
) -> Trained:
    """Train `recipe.config` on a labelled set; return the network in evaluation mode, on the CPU.

    Initial weights are those of `start`, a segmenter of the same config and classes; without one,
    those of the recipe's files, or random.

    On one machine with one number of threads, equal samples, recipe and precision give equal
    weights, on a CPU bit for bit, interrupted or not. On CUDA two runs differ by the order of
    atomic additions.

    Raises `ValueError` for an empty set, and for a sample or weights that do not fit;
    `TrainingError` if the loss is not finite.
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
        notes["precision"] = (
            saved["notes"]["precision"] if saved else _precision(segmenter, recipe, crop, device)
        )
        position = saved["notes"]["step"] * recipe.batch_size if saved else 0
        views = _views(recipe, crop, len(classes), schedule)
        view = TrainingView(samples, views, position)
        files = [] if start else [load_weights(segmenter.network, file) for file in recipe.weights]
        initial = start.network.state_dict() if start else _merged(files)
        hooks: list[Any] = [curve, Begin(initial, whole=start is not None)]
        if execution.snapshots:
            hooks.append(Resume(execution.snapshots, notes, curve, saved))
        loader = _loader(view, recipe, execution.workers)
        network = segmenter.network.to(device)
        rates = _rates(network, recipe, schedule, notes["precision"], device)
        _run(network, recipe, device, loader, rates, hooks)
    segmenter.network.to("cpu").eval()
    seconds = time.perf_counter() - begun
    summaries = [file.summary() for file in files]
    return Trained(segmenter, curve.rows, notes["precision"], seconds, summaries)


def _merged(files: Sequence[Loaded]) -> dict[str, Tensor]:
    return {name: value for file in files for name, value in file.state.items()}


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
    rates: _Rates,
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
            custom_hooks=[*hooks, rates.schedule],
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


class _Rates(NamedTuple):
    """mmengine's wrapper of an optimiser, and the hook that sets the learning rate of each step."""

    optimiser: Any
    schedule: Any


def _rates(
    network: torch.nn.Module,
    recipe: TrainingRecipe,
    schedule: ConfigSchedule | None,
    precision: str,
    device: str,
) -> _Rates:
    """Return the config's optimiser and schedule, or `Muon` with warm-up and cosine.

    Every head's classifier is trained without Muon.
    """
    if schedule:
        built = schedule.build_optimiser(network, recipe.learning_rate)
        options = {"clip_grad": built.clip_grad_kwargs} if built.clip_grad_kwargs else {}
        accumulated = built._accumulative_counts
        optimiser = optim_wrapper(
            built.optimizer, precision, device, accumulative_counts=accumulated, **options
        )
        return _Rates(optimiser, Schedulers(schedule.build_schedulers(optimiser, recipe.steps)))
    last = ("conv_seg.", "class_predictor.")
    classifiers = [p for name, p in network.named_parameters() if any(n in name for n in last)]
    muon = Muon(network, recipe.learning_rate, recipe.weight_decay, plain=classifiers)
    return _Rates(
        optim_wrapper(muon, precision, device, clip_grad={"max_norm": _CLIP}),
        Schedule(recipe.learning_rate, recipe.warmup, recipe.steps),
    )
