"""Training through mmengine's Runner: seeded, quiet, resumable, in whichever precision is faster on
the machine.
"""

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
from models.segmenters.hooks import Begin, Course, Resume, Schedule, Snapshots, read_snapshot
from models.segmenters.networks import DEFAULT, Segmenter, build_segmenter
from models.segmenters.openmmlab import QuietRunner, isolated
from models.segmenters.precision import optim_wrapper, probe_precision
from models.segmenters.samples import Augmentation, TrainingView, Views, collate

__all__ = ["Trained", "TrainingRecipe", "train_segmenter"]

# largest norm of a step's gradient; lets a transformer start from random weights at a high rate
_CLIP = 1.0


@dataclass(frozen=True)
class TrainingRecipe:
    """What decides the weights, beside the data. `learning_rate` is `Muon`'s peak, `crop` is in
    pixels (H, W).

    `crop` None is the first sample's size. `precision` "auto" is probed; name "fp32", "bf16" or
    "fp16" to fix it.
    """

    config: str = DEFAULT
    steps: int = 1500
    batch_size: int = 16
    learning_rate: float = 8e-3
    weight_decay: float = 0.01
    warmup: int = 100
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.75, 1.33)
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    precision: str = "auto"


@dataclass(frozen=True)
class Trained:
    """A segmenter, how it was trained, and its curve: rows of `step`, mean `loss` since the last,
    `learning_rate`.
    """

    segmenter: Segmenter
    curve: list[dict[str, float]]
    precision: str
    seconds: float


def train_segmenter(
    samples: Dataset[Any],
    classes: Sequence[str],
    recipe: TrainingRecipe,
    *,
    start: Segmenter | None = None,
    device: str = "auto",
    workers: int = 0,
    progress: Callable[[dict[str, float]], None] | None = None,
    snapshots: Snapshots | None = None,
    every: int = 25,
) -> Trained:
    """Train `recipe.config` on a labelled set and give the network back in evaluation mode, on the
    CPU.

    Weights are random, or those of `start`, a segmenter of the same config and classes.

    On one machine with one number of threads, equal samples, recipe and precision give equal
    weights, on a CPU bit for bit, whatever `workers` (spawned loading processes) and however often
    interrupted; on CUDA two runs differ by the order of atomic additions. Every `every` steps,
    `progress` gets a row of the curve with `steps` and `images_per_second`. A training that finds
    its own state in `snapshots` goes on from there.

    Raises `ValueError` for an empty set or a sample that does not fit, `TrainingError` if the loss
    is not finite.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not len(cast(Sized, samples)):
        raise ValueError(
            "the labelled set is empty; give a version or folder with at least one sample"
        )
    crop = recipe.crop or cast(tuple[int, int], tuple(samples[0]["label"].shape))
    notes: dict[str, Any] = {"recipe": asdict(recipe), "classes": list(classes), "crop": crop}
    course, begun = Course(recipe.steps, recipe.batch_size, every, progress), time.perf_counter()
    with isolated():
        saved = read_snapshot(snapshots, notes)
        torch.manual_seed(recipe.seed)
        segmenter = build_segmenter(recipe.config, classes)
        notes["precision"] = (
            saved["notes"]["precision"] if saved else _precision(segmenter, recipe, crop, device)
        )
        position = saved["notes"]["step"] * recipe.batch_size if saved else 0
        view = TrainingView(samples, _views(recipe, crop, len(classes)), position)
        hooks = [Begin(start.network.state_dict())] if start else []
        hooks += [Resume(snapshots, notes, course, saved)] if snapshots else []
        _run(
            segmenter.network.to(device),
            recipe,
            notes["precision"],
            device,
            _loader(view, recipe, workers),
            [course, *hooks],
        )
    segmenter.network.to("cpu").eval()
    return Trained(segmenter, course.rows, notes["precision"], time.perf_counter() - begun)


def _run(
    network: torch.nn.Module,
    recipe: TrainingRecipe,
    precision: str,
    device: str,
    loader: DataLoader[dict[str, Any]],
    hooks: Sequence[Any],
) -> None:
    """All steps of a training, by mmengine."""
    with tempfile.TemporaryDirectory() as folder:
        QuietRunner(
            device=device,
            model=network,
            work_dir=folder,
            experiment_name=uuid.uuid4().hex,
            train_dataloader=loader,
            train_cfg={
                "type": "IterBasedTrainLoop",
                "max_iters": recipe.steps,
                "fast_forward_on_resume": True,
            },
            optim_wrapper=_optimiser(network, recipe, precision, device),
            custom_hooks=[*hooks, Schedule(recipe.learning_rate, recipe.warmup, recipe.steps)],
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
    generator = (
        torch.Generator()
    )  # its own: with torch's, starting to load would shift the draws of a resumed training
    options: dict[str, Any] = {
        "multiprocessing_context": context,
        "num_workers": workers,
        "generator": generator,
    }
    return DataLoader(view, recipe.batch_size, collate_fn=collate, **options)


def _optimiser(
    network: torch.nn.Module, recipe: TrainingRecipe, precision: str, device: str
) -> Any:
    last = [
        p for name, p in network.named_parameters() if "conv_seg." in name
    ]  # every head's classifier
    optimiser = Muon(network, recipe.learning_rate, recipe.weight_decay, plain=last)
    return optim_wrapper(optimiser, precision, device, clip_grad={"max_norm": _CLIP})
