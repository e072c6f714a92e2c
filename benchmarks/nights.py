"""Do nights add up? A segmenter trained on five nights together against the best of those trained
on one of them, and a training that starts from the champion against one from random weights.

The nights are runs of their own seeds. All trainings have the default settings and the same number
of steps; those of the second question have a third of it. Its champion is the network of the last
night but one. Measured on held-out drawn scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.night import planned_night
from benchmarks.trainings import HELD_OUT, InMemory, Training, mious, recipe_for
from infra.store import Manifest, SegmentationDataset, Store
from models.segmenters import TrainingRecipe
from tasks.schemas import origin_of
from tasks.train.pool import pool_of
from tasks.train.start import continued
from tasks.train.train import class_names
from tasks.train.versions import chosen_versions

NIGHTS = {"quick": 2, "default": 5, "full": 5}
# generated images and composed scenes of a night; four of five are kept
IMAGES = {"quick": (24, 8), "default": (160, 80), "full": (1600, 800)}
SEEDS = {"quick": 1, "default": 3, "full": 3}
SHORTER = 3  # times fewer steps than a whole training, where the champion is asked about
Seeded = Callable[[int], Training]


def main(size: Size) -> list[Claim]:
    versions = [publish_night(size, number) for number in range(NIGHTS[size])]
    store = Store.open(str(CACHE / "store"))
    manifests = chosen_versions(store, versions[-1], tuple(versions))
    alone = {f"night {each.version}": trained_on(store, [each], size) for each in manifests}
    together = trained_on(store, manifests, size)
    scores = mious(alone | {"all nights": together}, SEEDS[size])
    best = max((scores[name] for name in alone), key=lambda values: float(values.mean()))
    gain = float((scores["all nights"] - best).mean())
    yesterday = list(alone.values())[1]
    return [
        Claim(f"{len(versions)} nights together less the best single one, mIoU", gain, ">= 0.02"),
        Claim(
            "starting from the champion less from random weights, mIoU",
            continuing(together, yesterday, SEEDS[size]),
            ">= 0.0",
        ),
    ]


def publish_night(size: Size, number: int) -> str:
    """Return the version of a night, which is made if it is not published."""
    images, composed = IMAGES[size]
    name = f"nights-{size}-{number}"
    plan = {"images": images, "shard_size": images // 4}
    return planned_night(name, 3000 + number, composed, **plan).version


def trained_on(store: Store, manifests: Sequence[Manifest], size: Size) -> Seeded:
    """Return the training on these versions by the default settings, by its seed."""
    names = [each.version for each in manifests]
    one = len(names) == 1
    samples = SegmentationDataset(store.url, names) if one else pool_of(store, manifests, memory=0)
    shown = names[0] if one else f"all {len(names)} nights"
    print(f"{shown}: {len(samples)} of {sum(each.samples for each in manifests)} samples")
    classes = class_names(origin_of(manifests[0]).classes)
    content = " ".join(each.digest for each in manifests)
    made = partial(Training, shown, InMemory(samples), content, classes)
    return lambda seed: made(recipe_for(size, seed), HELD_OUT[size])


def continuing(data: Seeded, champion: Seeded, seeds: int) -> float:
    """Return the mean mIoU difference that starting from the champion's network makes."""

    def scratch(seed: int) -> Training:
        training = data(seed)
        return replace(training, recipe=shorter(training.recipe))

    def tuned(seed: int) -> Training:
        training = scratch(seed)
        recipe = continued(training.recipe)
        return replace(training, recipe=recipe, start=champion(seed).key())

    found = mious({"from random weights": scratch, "from the champion": tuned}, seeds)
    return float(np.mean(found["from the champion"] - found["from random weights"]))


def shorter(recipe: TrainingRecipe) -> TrainingRecipe:
    """Return the recipe with fewer steps."""
    return replace(recipe, steps=max(1, recipe.steps // SHORTER))


if __name__ == "__main__":
    run("nights", main)
