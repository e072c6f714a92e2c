"""Is a segmenter trained on what the night run published as good as one trained on as much exact truth?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, Subset

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.night import night
from infra.store import SegmentationDataset, Store, read_version
from models import segmenters
from models.segmenters import ArraySet, DrawnScenes, TrainingRecipe, train_segmenter
from tasks.evaluate import drawn_truth, evaluate_segmenter
from tasks.train import class_names

SAMPLES = {"quick": 20, "default": 2000, "full": 8000}
STEPS = {"quick": 20, "default": 3000, "full": 20000}
HELD_OUT = {"quick": 20, "default": 500, "full": 2000}


def main(size: Size) -> list[Claim]:
    made = night(size)
    published = published_evenly(made.store, made.version, SAMPLES[size])
    count, classes = len(published), class_names(read_version(made.store, made.version).meta["classes"])
    recipe = TrainingRecipe(steps=STEPS[size])
    synthetic = measured("synthetic", published, made.version, recipe, HELD_OUT[size], classes)
    drawn = measured("drawn", drawn_scenes(count, classes), "", recipe, HELD_OUT[size], classes)
    return [
        Claim("samples trained on", count, ">= 2000"),
        Claim("mIoU of synthetic over exact truth", synthetic["miou"] / drawn["miou"], ">= 0.8"),
    ]


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
    known = CACHE / f"transfer-{name}-{digest(recipe, len(cast(Sized, samples)), version)}.json"
    if not known.exists():
        trained = train_segmenter(samples, classes, recipe, progress=print)
        truth = drawn_truth(held_out, classes)
        known.write_text(json.dumps(asdict(evaluate_segmenter(trained.segmenter, truth, "held-out drawn scenes"))))
    found: dict[str, Any] = json.loads(known.read_text())
    ious = {label: round(iou or 0.0, 3) for label, iou in found["iou"].items()}
    print(f"trained on {len(cast(Sized, samples))} {name}: mIoU {found['miou']:.3f}", ious)
    return found


def digest(recipe: TrainingRecipe, count: int, version: str) -> str:
    """What a trained half depends on: recipe, number of samples, version, and the code that trains and measures it."""
    digest = hashlib.sha256(json.dumps([asdict(recipe), count, version]).encode())
    for file in sorted(Path(segmenters.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


if __name__ == "__main__":
    run("transfer", main)
