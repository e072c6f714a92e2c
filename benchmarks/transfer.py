"""Is a segmenter trained on the published version as good as one trained on exact truth?

Both are trained with the default settings, on as many samples: all that the run published, and
drawn scenes with exact labels. Exact truth is also trained without pasted objects, in case pasting
does not help it; the better of the two counts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import Claim, Size, run
from benchmarks.night import Night, night
from benchmarks.trainings import (
    HELD_OUT,
    InMemory,
    Training,
    drawn_training,
    mious,
    recipe_for,
)
from infra.store import SegmentationDataset
from models.segmenters import TrainingRecipe
from tasks.train.train import class_names

SAMPLES = {"quick": 20, "default": 2000, "full": 8000}  # at least
SEEDS = {"quick": 1, "default": 3, "full": 3}


def main(size: Size) -> list[Claim]:
    count, ratios = transferred(night(size), size)
    return [
        Claim("samples trained on", count, f">= {SAMPLES[size]}"),
        Claim(
            "mIoU of synthetic over the better of exact truth, mean of the seeds",
            ratios.mean(),
            ">= 0.95",
        ),
    ]


def transferred(made: Night, size: Size) -> tuple[int, NDArray[np.float64]]:
    """Return the number of published samples, and per seed their mIoU over exact truth's."""
    published = SegmentationDataset(made.store.url, made.version)
    count, held_out = len(published), HELD_OUT[size]
    classes = class_names(published.manifest.meta["classes"])

    def synthetic(seed: int) -> Training:
        samples, content = InMemory(published), published.manifest.digest
        return Training("published", samples, content, classes, recipe_for(size, seed), held_out)

    def exact(seed: int) -> Training:
        return drawn_training("exact truth", count, classes, recipe_for(size, seed), held_out)

    def unpasted(seed: int) -> Training:
        recipe = without_pasting(recipe_for(size, seed))
        return drawn_training("exact truth", count, classes, recipe, held_out)

    trainings = {
        "published": synthetic,
        "exact truth": exact,
        "exact truth, nothing pasted": unpasted,
    }
    scores = mious(trainings, SEEDS[size])
    truths = [scores["exact truth"], scores["exact truth, nothing pasted"]]
    ratios = scores["published"] / max(truths, key=lambda values: float(values.mean()))
    print(f"over the better of exact truth: {ratios.mean():.3f} ± {ratios.std():.3f}")
    return count, ratios


def without_pasting(recipe: TrainingRecipe) -> TrainingRecipe:
    """Return the recipe with no objects of other samples pasted into images."""
    return replace(recipe, augmentation=replace(recipe.augmentation, paste=0.0))


if __name__ == "__main__":
    run("transfer", main)
