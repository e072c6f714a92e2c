"""Is a segmenter trained on what the night run published as good as one trained on as much exact truth?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset, Subset

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.night import night
from infra.store import SegmentationDataset, read_version
from models import segmenters
from models.segmenters import ArraySet, DrawnScenes, LabelledItem, TrainingRecipe, train_segmenter
from tasks.evaluate import drawn_truth, evaluate_segmenter
from tasks.train import class_names

_SAMPLES = {"quick": 20, "default": 2000, "full": 8000}
_STEPS = {"quick": 20, "default": 3000, "full": 20000}
_HELD_OUT = {"quick": 20, "default": 500, "full": 2000}


def main(size: Size) -> list[Claim]:
    made = night(size)
    published = SegmentationDataset(made.store.url, made.version)
    count = min(len(published), _SAMPLES[size])
    chosen = np.random.default_rng(0).permutation(len(published))[:count]  # composed scenes come last
    print(f"{len(published)} samples published, {count} used")
    classes = class_names(read_version(made.store, made.version).meta["classes"])
    recipe = TrainingRecipe(steps=_STEPS[size])
    sets: dict[str, Dataset[LabelledItem]] = {
        "synthetic": Subset(published, chosen.tolist()),
        "drawn": ArraySet(DrawnScenes(count, first=0), classes),
    }
    miou = {}
    for name, samples in sets.items():
        of = made.version if name == "synthetic" else ""
        known = CACHE / f"transfer-{name}-{digest(recipe, count, of)}.json"
        if not known.exists():
            trained = train_segmenter(samples, classes, recipe, progress=print)
            truth = drawn_truth(_HELD_OUT[size], classes)
            known.write_text(json.dumps(asdict(evaluate_segmenter(trained.segmenter, truth, "held-out drawn scenes"))))
        found = json.loads(known.read_text())
        miou[name] = found["miou"]
        ious = {label: round(iou or 0.0, 3) for label, iou in found["iou"].items()}
        print(f"trained on {count} {name}: mIoU {found['miou']:.3f}", ious)
    return [
        Claim("samples trained on", count, ">= 2000"),
        Claim("mIoU of synthetic over exact truth", miou["synthetic"] / miou["drawn"], ">= 0.8"),
    ]


def digest(recipe: TrainingRecipe, count: int, version: str) -> str:
    """What a trained half depends on: recipe, number of samples, version, and the code that trains and measures it."""
    digest = hashlib.sha256(json.dumps([asdict(recipe), count, version]).encode())
    for file in sorted(Path(segmenters.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


if __name__ == "__main__":
    run("transfer", main)
