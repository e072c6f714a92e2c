"""Does steering help? Five nights whose budget follows the last evaluation, against even budgets.

Both ways begin with the same first night. After each night a segmenter is trained on all nights so
far. Where nights are steered, the next night is planned as `promote` makes it: by the segmenter's
evaluation, the share of samples kept, and the survey of the night by the segmenter before. The last
networks are trained as long as by default, those before them a third of it; all are measured on
held-out drawn scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.night import planned_night
from benchmarks.trainings import HELD_OUT, InMemory, Training, recipe_for, results
from infra.settings import EvaluateSettings
from infra.store import SegmentationDataset, Store, read_version
from tasks.promote.budget import budget_of
from tasks.promote.outcomes import read_outcomes, survey_path
from tasks.promote.survey import survey_version
from tasks.schemas import origin_of
from tasks.train.checkpoints import load_folder
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
    """The nights of one way and seed so far, and the weights that the next one is planned by."""

    seed: int
    steered: bool
    versions: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    before: str = ""

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
            **self.plan,
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

    def steer(self, evaluation: dict[str, Any], trained: str) -> None:
        """Plan the next night after an evaluation of the last training, whose key is `trained`."""
        if not self.steered:
            return
        store = Store.open(str(CACHE / "store"))
        manifest = read_version(store, self.versions[-1])
        if self.before and not store.exists(survey_path(self.runs[-1])):
            segmenter = load_folder(Store.open(str(CACHE / "trainings")), self.before)
            objects = survey_version(store, segmenter, manifest, EvaluateSettings())
            survey = {"checkpoint": self.before, "objects": objects}
            store.write_json(survey_path(self.runs[-1]), survey)
        outcomes = read_outcomes(store, self.runs[-1])
        found = budget_of(evaluation, origin_of(manifest).classes, outcomes)
        self.before = trained
        self.plan = {"budget": found.classes, **found.weights}
        print(f"night {len(self.versions) + 1}, seed {self.seed}:", self.plan)


def main(size: Size) -> list[Claim]:
    loops = [Loop(seed, steered) for seed in range(SEEDS[size]) for steered in BOTH]
    evaluations: list[dict[str, Any]] = []
    for _ in range(NIGHTS[size]):
        for loop in loops:
            loop.publish(size)
        trainings = [loop.training(size) for loop in loops]
        evaluations = results(trainings)
        for loop, evaluation, training in zip(loops, evaluations, trainings, strict=True):
            loop.steer(evaluation, training.key())
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
