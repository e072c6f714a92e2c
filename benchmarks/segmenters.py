"""How do the segmenters compare on the published version, at the same number of images?

All are trained with the default settings but for `train.model`, and measured on held-out drawn
scenes. Seconds are those of a training in one process; two run at once.
"""

from __future__ import annotations

import numpy as np

from benchmarks.claims import Claim, Size, run
from benchmarks.night import night
from benchmarks.trainings import HELD_OUT, InMemory, Training, mious, recipe_for
from infra.settings import TrainSettings
from infra.store import SegmentationDataset
from tasks.train.train import class_names

SEEDS = {"quick": 1, "default": 2, "full": 3}
MODELS = {"SegFormer": "segformer", "Mask2Former": "mask2former", "EoMT": "eomt"}
MARKS = {"Mask2Former": ">= 1.0", "EoMT": ">= 0"}  # EoMT is only reported


def main(size: Size) -> list[Claim]:
    made = night(size)
    published = SegmentationDataset(made.store.url, made.version)
    samples = InMemory(published)
    classes = class_names(published.manifest.meta["classes"])

    def training(name: str, seed: int) -> Training:
        recipe = recipe_for(size, seed, TrainSettings(model=MODELS[name]))
        digest = published.manifest.digest
        return Training(name, samples, digest, classes, recipe, HELD_OUT[size])

    jobs = {name: lambda seed, name=name: training(name, seed) for name in MODELS}
    scores = mious(jobs, SEEDS[size])
    return [
        Claim(f"mIoU of {name} over SegFormer", float(np.mean(scores[name] / base)), mark)
        for base in [scores["SegFormer"]]
        for name, mark in MARKS.items()
    ]


if __name__ == "__main__":
    run("segmenters", main)
