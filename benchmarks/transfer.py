"""Is a segmenter trained on what the night run published as good as one trained on as much exact
truth? Three seeds.

All that the night published against as many drawn scenes, by the same recipe, which pastes objects
of other samples, and against drawn scenes left as they are, should pasting not help there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence, Sized
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Subset

from benchmarks.claims import CACHE, Claim, Size, digest, run
from benchmarks.night import Night, night
from infra.store import SegmentationDataset, Store, read_version
from models import muon, segmenters
from models.segmenters import ArraySet, Augmentation, DrawnScenes, TrainingRecipe, train_segmenter
from tasks.evaluate.evaluate import drawn_truth, evaluate_segmenter
from tasks.train.train import class_names

SAMPLES = {"quick": 20, "default": 2000, "full": 8000}  # at least
STEPS = {"quick": 20, "default": 1000, "full": 20000}
SEEDS = {"quick": 1, "default": 3, "full": 3}
PASTE = 1.0  # share of the pictures that get an object of another
HELD_OUT = {"quick": 20, "default": 500, "full": 2000}


def main(size: Size) -> list[Claim]:
    made = night(size)
    count, found = transferred(made, size)
    return [
        Claim("samples trained on", count, f">= {SAMPLES[size]}"),
        Claim(
            "mIoU of synthetic over the better of exact truth, mean of the seeds",
            found.mean(),
            ">= 0.92",
        ),
    ]


def transferred(made: Night, size: Size) -> tuple[int, NDArray[np.float64]]:
    """How many samples the night published, and of each seed the mIoU of a training on them over
    exact truth's.
    """
    published = Kept(SegmentationDataset(made.store.url, made.version))
    count, classes = (
        len(published),
        class_names(read_version(made.store, made.version).meta["classes"]),
    )
    drawn, plain = drawn_scenes(count, classes), TrainingRecipe(steps=STEPS[size])
    pasted = replace(plain, augmentation=Augmentation(paste=PASTE))
    trainings: dict[str, tuple[str, Dataset[Any], str, TrainingRecipe]] = {
        "published, pasted": ("synthetic", published, made.version, pasted),
        "exact truth, pasted": ("drawn", drawn, "", pasted),
        "exact truth, as it is": ("drawn", drawn, "", plain),
    }
    with one_a_core() as workers:
        waiting = {
            name: [
                workers.submit(
                    measured, half, samples, of, replace(recipe, seed=seed), HELD_OUT[size], classes
                )
                for seed in range(SEEDS[size])
            ]
            for name, (half, samples, of, recipe) in trainings.items()
        }
        scores = {
            name: np.array([future.result()["miou"] for future in each])
            for name, each in waiting.items()
        }
    for name, mious in scores.items():
        print(f"{name}: mIoU {mious.mean():.3f} ± {mious.std():.3f} of {len(mious)} seeds")
    synthetic, *truths = scores.values()
    found = synthetic / max(truths, key=lambda each: float(each.mean()))
    print(f"over the better of exact truth: {found.mean():.3f} ± {found.std():.3f}")
    return count, found


def one_a_core() -> ProcessPoolExecutor:
    """Processes to train in side by side, each on one thread."""
    return ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,))


class Kept(Dataset[Any]):
    """A set whose items stay in memory once they were made."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self._samples, self._items = samples, dict[int, Any]()

    def __len__(self) -> int:
        return len(cast(Sized, self._samples))

    def __getitem__(self, index: int) -> Any:
        if index not in self._items:
            self._items[index] = self._samples[index]
        return self._items[index]


def published_evenly(store: Store, version: str, count: int) -> Subset[Any]:
    """So many of a version's samples, drawn evenly, as composed scenes come last."""
    published = SegmentationDataset(store.url, version)
    chosen = np.random.default_rng(0).permutation(len(published))[:count]
    print(f"{len(published)} samples published, {len(chosen)} used")
    return Subset(published, chosen.tolist())


def drawn_scenes(count: int, classes: Sequence[str]) -> ArraySet:
    """As many training scenes of the drawn world, with exact labels."""
    return ArraySet(DrawnScenes(count, first=0), classes)


def measured(
    name: str,
    samples: Dataset[Any],
    version: str,
    recipe: TrainingRecipe,
    held_out: int,
    classes: Sequence[str],
) -> dict[str, Any]:
    """The evaluation on held-out scenes of a training, as JSON; one that was made of the same
    before is read.
    """
    known = CACHE / f"transfer-{name}-{trained_by(recipe, len(cast(Sized, samples)), version)}.json"
    if not known.exists():
        trained = train_segmenter(samples, classes, recipe, progress=print)
        truth = drawn_truth(held_out, classes)
        known.write_text(
            json.dumps(
                asdict(evaluate_segmenter(trained.segmenter, truth, "held-out drawn scenes"))
            )
        )
    found: dict[str, Any] = json.loads(known.read_text())
    ious = {label: round(iou or 0.0, 3) for label, iou in found["iou"].items()}
    print(f"trained on {len(cast(Sized, samples))} {name}: mIoU {found['miou']:.3f}", ious)
    return found


def trained_by(recipe: TrainingRecipe, count: int, version: str) -> str:
    """Digest of what a trained half depends on, the code that trains and measures it included."""
    return digest(asdict(recipe), count, version, code=(segmenters, muon))


if __name__ == "__main__":
    run("transfer", main)
