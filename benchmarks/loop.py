"""Does steering help? Five nights whose budget follows the last evaluation, against even budgets.

Both ways begin with the same first night. After each night a segmenter is trained on all nights so
far. Where nights are steered, its IoU of each class and the share of samples kept set the next
night's budget, as `promote` does it. The last networks are trained as long as by default, those
before them a third of it; all are measured on held-out drawn scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.night import planned_night
from benchmarks.trainings import HELD_OUT, InMemory, Training, recipe_for, results
from infra.store import SegmentationDataset, Store
from tasks.promote.budget import keep_rates, next_budget
from tasks.schemas import origin_of
from tasks.train.pool import pool_of
from tasks.train.train import class_names
from tasks.train.versions import chosen_versions

NIGHTS = {"quick": 2, "default": 5, "full": 5}
# generated images and composed scenes of a night
IMAGES = {"quick": (24, 8), "default": (160, 80), "full": (1600, 800)}
SEEDS = {"quick": 1, "default": 3, "full": 3}
SHORTER = 3  # times fewer steps than a whole training, before the last night
BOTH = (True, False)


@dataclass
class Loop:
    """The nights of one way and seed so far, and the budget of the next one."""

    seed: int
    steered: bool
    versions: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    budget: dict[str, float] | None = None

    def publish(self, size: Size) -> None:
        """Make the next night."""
        number = len(self.versions)
        images, composed = IMAGES[size]
        way = "steered" if self.steered and number else "even"
        made = planned_night(
            f"loop-{size}-{way}-{self.seed}-{number}",
            4000 + 100 * self.seed + number,
            composed,
            images=images,
            shard_size=images // 4,
            budget=self.budget,
        )
        self.versions.append(made.version)
        self.runs.append(made.settings.name)

    def training(self, size: Size) -> Training:
        """Return the training on all nights so far."""
        store = Store.open(str(CACHE / "store"))
        manifests = chosen_versions(store, self.versions[-1], tuple(self.versions))
        samples: Any = SegmentationDataset(store.url, self.versions)
        if len(manifests) > 1:
            samples = pool_of(store, manifests, memory=0)
        recipe = recipe_for(size, self.seed)
        if len(self.versions) < NIGHTS[size]:
            recipe = replace(recipe, steps=max(1, recipe.steps // SHORTER))
        return Training(
            f"{len(manifests)} nights, {'steered' if self.steered else 'even'}",
            InMemory(samples),
            " ".join(each.digest for each in manifests),
            class_names(origin_of(manifests[0]).classes),
            recipe,
            HELD_OUT[size],
        )

    def steer(self, iou: dict[str, float | None]) -> None:
        """Set the next night's budget from the evaluation of the last training."""
        if self.steered:
            store = Store.open(str(CACHE / "store"))
            self.budget = next_budget(iou, keep_rates(store, self.runs[-1]))
            print(f"budget of night {len(self.versions) + 1}, seed {self.seed}:", self.budget)


def main(size: Size) -> list[Claim]:
    loops = [Loop(seed, steered) for seed in range(SEEDS[size]) for steered in BOTH]
    evaluations: list[dict[str, Any]] = []
    for _ in range(NIGHTS[size]):
        for loop in loops:
            loop.publish(size)
        evaluations = results([loop.training(size) for loop in loops])
        for loop, evaluation in zip(loops, evaluations, strict=True):
            loop.steer(evaluation["iou"])
    worst = [min(value or 0.0 for value in each["iou"].values()) for each in evaluations]
    mious = [each["miou"] for each in evaluations]
    return [
        Claim("worst class's IoU, steered less even", gain(worst), ">= 0.03"),
        Claim("mIoU, steered less even", gain(mious), ">= 0.0"),
    ]


def gain(values: list[float]) -> float:
    """Return the mean difference of the pairs (steered, even)."""
    pairs = np.array(values).reshape(-1, len(BOTH))
    return float((pairs[:, 0] - pairs[:, 1]).mean())


if __name__ == "__main__":
    run("loop", main)
