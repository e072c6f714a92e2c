"""Training through mmengine's Runner: seeded, quiet, resumable, in the faster precision."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from models.muon import Muon
from models.segmenters.hooks import Begin, Curve, Resume, Schedule, Snapshots, read_snapshot
from models.segmenters.networks import Segmenter, build_segmenter
from models.segmenters.openmmlab import QuietRunner, isolated
from models.segmenters.precision import optim_wrapper, probe_precision
from models.segmenters.samples import Augmentation, TrainingView, Views, collate

__all__ = ["Execution", "Trained", "TrainingRecipe", "train_segmenter"]

# largest norm of a step's gradient; lets a transformer start from random weights at a high rate
_CLIP = 1.0


@dataclass(frozen=True)
class TrainingRecipe:
    """What decides the weights, apart from the data.

    `learning_rate` is the peak learning rate of `Muon`; `crop` is (H, W) in pixels, None for the
    first sample's size. `precision` is "auto" (probed), "fp32", "bf16" or "fp16".
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

    Rows of the curve are `step`, mean `loss` since the row before, and `learning_rate`.
    """

    segmenter: Segmenter
    curve: list[dict[str, float]]
    precision: str
    seconds: float


def train_segmenter(
    samples: Dataset[Any],
    classes: Sequence[str],
    recipe: TrainingRecipe,
    execution: Execution = Execution(),
    *,
    start: Segmenter | None = None,
) -> Trained:
    """Train `recipe.config` on a labelled set; return the network in evaluation mode, on the CPU.

    Initial weights are random, or those of `start`, a segmenter of the same config and classes.

    On one machine with one number of threads, equal samples, recipe and precision give equal
    weights, on a CPU bit for bit, interrupted or not. On CUDA two runs differ by the order of
    atomic additions.

    Raises `ValueError` for an empty set or a sample that does not fit, `TrainingError` if the loss
    is not finite.
    """
    begun = time.perf_counter()
    device = execution.resolve_device()
    crop = recipe.crop or _first_size(samples)
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
        view = TrainingView(samples, _views(recipe, crop, len(classes)), position)
        hooks: list[Any] = [curve, *([Begin(start.network.state_dict())] if start else [])]
        if execution.snapshots:
            hooks.append(Resume(execution.snapshots, notes, curve, saved))
        loader = _loader(view, recipe, execution.workers)
        _run(segmenter.network.to(device), recipe, notes["precision"], device, loader, hooks)
    segmenter.network.to("cpu").eval()
    return Trained(segmenter, curve.rows, notes["precision"], time.perf_counter() - begun)


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
    precision: str,
    device: str,
    loader: DataLoader[dict[str, Any]],
    hooks: Sequence[Any],
) -> None:
    """Run all steps of a training by mmengine."""
    loop = {
        "type": "IterBasedTrainLoop",
        "max_iters": recipe.steps,
        "fast_forward_on_resume": True,
    }
    schedule = Schedule(recipe.learning_rate, recipe.warmup, recipe.steps)
    with tempfile.TemporaryDirectory() as folder:
        QuietRunner(
            device=device,
            model=network,
            work_dir=folder,
            experiment_name=uuid.uuid4().hex,
            train_dataloader=loader,
            train_cfg=loop,
            optim_wrapper=_optimiser(network, recipe, precision, device),
            custom_hooks=[*hooks, schedule],
            randomness={"seed": recipe.seed},
        ).train()


def _precision(
    segmenter: Segmenter, recipe: TrainingRecipe, crop: tuple[int, int], device: str
) -> str:
    if recipe.precision != "auto":
        return recipe.precision
    return probe_precision(segmenter.network, (recipe.batch_size, *crop), device)


def _views(recipe: TrainingRecipe, crop: tuple[int, int], num_classes: int) -> Views:
    length = recipe.steps * recipe.batch_size
    return Views(length, num_classes, crop, recipe.scale, recipe.seed, recipe.augmentation)


def _loader(view: TrainingView, recipe: TrainingRecipe, workers: int) -> DataLoader[dict[str, Any]]:
    context = "spawn" if workers else None  # forked workers deadlock with an open object store
    # its own generator: with torch's, opening a loader would shift the draws of a resumed training
    options: dict[str, Any] = {
        "multiprocessing_context": context,
        "num_workers": workers,
        "generator": torch.Generator(),
    }
    return DataLoader(view, recipe.batch_size, collate_fn=collate, **options)


def _optimiser(
    network: torch.nn.Module, recipe: TrainingRecipe, precision: str, device: str
) -> Any:
    """Return mmengine's wrapper of `Muon`; every head's classifier is trained without it."""
    classifiers = [p for name, p in network.named_parameters() if "conv_seg." in name]
    optimiser = Muon(network, recipe.learning_rate, recipe.weight_decay, plain=classifiers)
    return optim_wrapper(optimiser, precision, device, clip_grad={"max_norm": _CLIP})
