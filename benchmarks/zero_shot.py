"""Are classes without any real label learnt from the published version alone?

Zero-shot training is what `segmint train` does with `train.protocol=zero-shot`: real scenes without
labels of the unseen classes, and the published samples that show these. Full supervision sees the
same scenes with all labels. It is trained with the default settings, and also without pasted
objects; the better of the two counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.claims import Claim, Size, run
from benchmarks.night import night
from benchmarks.sources import key
from benchmarks.trainings import (
    HELD_OUT,
    InMemory,
    Training,
    drawn_training,
    recipe_for,
    results,
)
from benchmarks.transfer import SAMPLES, without_pasting
from infra.settings import Settings
from infra.store import SegmentationDataset
from models import metrics
from models.segmenters import TrainingRecipe
from tasks.train.protocols import protocol_of, training_set
from tasks.train.train import class_names

UNSEEN = 3  # the last of the vocabulary, as VOC's split takes its last quarter
SEEDS = {"quick": 1, "default": 2, "full": 3}


def main(size: Size) -> list[Claim]:
    made = night(size)
    published = SegmentationDataset(made.store.url, made.version)
    classes = class_names(published.manifest.meta["classes"])
    unseen = classes[-UNSEEN:]
    ways = trainings(published, classes, unseen, size)
    evaluations = iter(results([each for way in ways.values() for each in way]))
    harmonic = {
        name: np.array([seen_and_unseen(name, next(evaluations), unseen) for _ in way])
        for name, way in ways.items()
    }
    zero_shot, *full = harmonic.values()
    best = max(full, key=lambda values: float(values.mean()))
    ratios = zero_shot / best
    print(f"zero-shot over full supervision: {ratios.mean():.3f} ± {ratios.std():.3f}")
    return [
        Claim(
            "harmonic mean of zero-shot over the better full supervision, mean of the seeds",
            ratios.mean(),
            ">= 0.95",
        )
    ]


def trainings(
    published: SegmentationDataset, classes: tuple[str, ...], unseen: Sequence[str], size: Size
) -> dict[str, list[Training]]:
    """Return the trainings of each way, one per seed: zero-shot first, then full supervision."""
    count, held_out = SAMPLES[size], HELD_OUT[size]
    chosen = {
        "protocol": "zero-shot",
        "real": "drawn",
        "real_images": count,
        "unseen": list(unseen),
    }
    settings = Settings(train=chosen)
    protocol = protocol_of(settings)
    mixed = InMemory(training_set(protocol, published, classes))
    content = key(asdict(protocol), published.manifest.digest)
    recipes = [recipe_for(size, seed, settings.train) for seed in range(SEEDS[size])]

    def full(recipe: TrainingRecipe) -> Training:
        return drawn_training("full supervision", count, classes, recipe, held_out)

    return {
        "zero-shot": [
            Training("zero-shot", mixed, content, classes, recipe, held_out) for recipe in recipes
        ],
        "full supervision": [full(recipe) for recipe in recipes],
        "full supervision, nothing pasted": [full(without_pasting(recipe)) for recipe in recipes],
    }


def seen_and_unseen(name: str, evaluation: Mapping[str, Any], unseen: Sequence[str]) -> float:
    """Print the mean IoU of seen and unseen classes and their harmonic mean; return the last."""
    names = list(evaluation["iou"])
    iou = np.array([np.nan if value is None else value for value in evaluation["iou"].values()])
    seen, hidden, harmonic = metrics.seen_unseen(iou, [names.index(label) for label in unseen])
    print(
        f"{name}: seen {seen:.3f}, unseen ({', '.join(unseen)}) {hidden:.3f}, "
        f"harmonic {harmonic:.3f}"
    )
    return harmonic


if __name__ == "__main__":
    run("zero_shot", main)
