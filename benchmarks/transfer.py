"""Is a segmenter trained on what the night run published as good as one trained on as much exact truth?

All that the night published against as many drawn scenes, by the same recipe, which pastes objects of other samples,
and against drawn scenes left as they are, should pasting not help there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, Subset

from benchmarks.claims import CACHE, Claim, Size, digest, run
from benchmarks.night import night
from infra.store import SegmentationDataset, Store, read_version
from models import muon, segmenters
from models.segmenters import ArraySet, Augmentation, DrawnScenes, TrainingRecipe, train_segmenter
from tasks.evaluate import drawn_truth, evaluate_segmenter
from tasks.train import class_names

SAMPLES = {"quick": 20, "default": 2000, "full": 8000}  # at least
STEPS = {"quick": 20, "default": 1000, "full": 20000}
PASTE = 1.0  # share of the pictures that get an object of another
HELD_OUT = {"quick": 20, "default": 500, "full": 2000}


def main(size: Size) -> list[Claim]:
    made = night(size)
    published = Kept(SegmentationDataset(made.store.url, made.version))
    count, classes = len(published), class_names(read_version(made.store, made.version).meta["classes"])
    plain = TrainingRecipe(steps=STEPS[size])
    recipe = replace(plain, augmentation=Augmentation(paste=PASTE))
    synthetic = measured("synthetic", published, made.version, recipe, HELD_OUT[size], classes)
    drawn = drawn_scenes(count, classes)
    truths = [measured("drawn", drawn, "", each, HELD_OUT[size], classes)["miou"] for each in (recipe, plain)]
    print(f"synthetic over exact truth, pasted alike {synthetic['miou'] / truths[0]:.3f}, plain "
          f"{synthetic['miou'] / truths[1]:.3f}")  # fmt: skip
    return [
        Claim("samples trained on", count, f">= {SAMPLES[size]}"),
        Claim("mIoU of synthetic over the better of exact truth", synthetic["miou"] / max(truths), ">= 0.92"),
    ]


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
    """The evaluation on held-out scenes of a training, as JSON; one that was made of the same before is read."""
    known = CACHE / f"transfer-{name}-{trained_by(recipe, len(cast(Sized, samples)), version)}.json"
    if not known.exists():
        trained = train_segmenter(samples, classes, recipe, progress=print)
        truth = drawn_truth(held_out, classes)
        known.write_text(json.dumps(asdict(evaluate_segmenter(trained.segmenter, truth, "held-out drawn scenes"))))
    found: dict[str, Any] = json.loads(known.read_text())
    ious = {label: round(iou or 0.0, 3) for label, iou in found["iou"].items()}
    print(f"trained on {len(cast(Sized, samples))} {name}: mIoU {found['miou']:.3f}", ious)
    return found


def trained_by(recipe: TrainingRecipe, count: int, version: str) -> str:
    """Digest of what a trained half depends on, the code that trains and measures it included."""
    return digest(asdict(recipe), count, version, code=(segmenters, muon))


if __name__ == "__main__":
    run("transfer", main)
