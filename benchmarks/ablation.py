"""What does each step of the method buy? Labels, selection and training with one more step at a
time.

Each row's trainings take the default recipe with fewer steps: 39 of them have to end within the
hour, and short ones show the differences between rows. No claim rests on them. The claim about the
whole method is on trainings with the default recipe as it is, those of `benchmarks.transfer`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from benchmarks.claims import Claim, Size, run
from benchmarks.labellers import (
    WHOLE,
    Examples,
    Labels,
    cache_path,
    cached_labels,
    label_ious,
    labellers,
    mean_iou,
)
from benchmarks.masks import batches, denoise, drawn_rows, named_means
from benchmarks.night import Night, night, run_night
from benchmarks.trainings import Training, mious, recipe_for
from benchmarks.transfer import transferred
from infra.settings import SelectSettings, Settings
from infra.store import SegmentationDataset
from models.embedded import world
from models.embedded.oracle import load_oracle
from models.segmenters import Augmentation, LabelledItem, TrainingRecipe
from tasks.publish.samples import version_of
from tasks.refine.affinity import learn_affinity, read_affinity
from tasks.run.layout import stage_folder
from tasks.train.train import class_names


@dataclass(frozen=True)
class Scale:
    """How much is measured: samples of a training set, drawn scenes that are labelled, steps of a
    training, scenes it is measured on, seeds.
    """

    samples: int
    drawn: int
    steps: int
    held_out: int
    seeds: int


_SCALES = {
    "quick": Scale(24, 12, 20, 10, 1),
    "default": Scale(2000, 200, 400, 300, 3),
    "full": Scale(8000, 1000, 10_000, 2000, 3),
}
LEARNING = {"folds": 3, "keep": 0.8}
PIXEL_LOSS = 4.0  # times the mean of its class
AUGMENTED = Augmentation(paste=1.0, splice=0.3, blur=0.2, occlusion=0.2, perspective=0.2)
AUGMENTATION = "+ augmentation"

Table = dict[str, dict[str, float]]


def main(size: Size) -> list[Claim]:
    scale = _SCALES[size]
    made = night(size)
    ids = made.settings.load_vocabulary().ids
    table, sets = by_step(made, ids, scale)
    nights = learnt(made, min(SelectSettings().fold_steps, 3 * scale.steps))
    for name, (each, stage) in nights.items():
        rows = each.table[each.table["keep"]]
        labels = each.read(stage, "label", rows)
        table[name] = label_ious(labels, generated(each, rows, ids)) | shares_kept(each)
    versions = {"+ composed scenes": made} | {name: each for name, (each, _) in nights.items()}
    sets |= {name: published_set(name, each, scale.samples) for name, each in versions.items()}
    add_transfer(table, sets, ids, size)
    print(pd.DataFrame(table).T.round(3).to_string(), flush=True)
    _, transfer = transferred(made, size)
    several = named_means(made, made.table[made.table["classes"].map(len) > 1], ids)
    print("prompts of several objects, label against the oracle:", several, flush=True)
    return [
        *claims_on_labels(table[WHOLE], several),
        Claim(
            "transfer of all it published, trained as in benchmarks.transfer, mean of the seeds",
            transfer.mean(),
            ">= 0.95",
        ),
    ]


def claims_on_labels(whole: dict[str, float], several: dict[str, float]) -> list[Claim]:
    """Return the claims on the default method; noise learning and its filter are options."""
    return [
        Claim(
            "whole method: label against the oracle on kept one-object images",
            whole["one object"],
            ">= 0.92",
        ),
        Claim("the same against exact truth", whole["exact truth"], ">= 0.88"),
        Claim("share of one-object images kept", whole["kept, one object"], ">= 0.6"),
        Claim(
            "prompts of several objects, kept images: label against the oracle",
            several["kept"],
            ">= 0.85",
        ),
        Claim(
            "prompts of several objects, all generated images: label against the oracle",
            several["all"],
            ">= 0.8",
        ),
    ]


def by_step(made: Night, ids: dict[str, int], scale: Scale) -> tuple[Table, dict[str, Path]]:
    """Return the figures of each step's labels, and the training set that the step gives."""
    learn_affinity.fn(made.settings)
    kept = generated(made, made.table[made.table["keep"]].head(scale.samples), ids)
    exact = drawn(made.settings, scale.drawn, ids)
    table: Table = {}
    sets = {}
    for name, way in labellers(read_affinity(made.store, made.settings.name)).items():
        labels = cached_labels(name, way, kept)
        sets[name] = training_file(name, made.version, kept.images, labels)
        of_drawn = cached_labels(name, way, exact)
        truth = mean_iou(of_drawn, exact.reference, range(len(exact)), exact.classes)
        table[name] = label_ious(labels, kept) | {"exact truth": truth} | shares_kept(made)
        print(name, {column: round(value, 3) for column, value in table[name].items()}, flush=True)
    return table, sets


def add_transfer(table: Table, sets: dict[str, Path], ids: dict[str, int], size: Size) -> None:
    """Train on each set and add the mIoU over exact truth's, mean and spread of the seeds."""
    scale = _SCALES[size]
    classes = class_names(ids)
    exact = drawn_file(scale.samples)
    plain = replace(recipe_for(size), steps=scale.steps)
    augmented = replace(plain, augmentation=AUGMENTED)
    jobs = {name: training(name, path, classes, plain, scale) for name, path in sets.items()}
    last = list(sets)[-1]
    jobs[AUGMENTATION] = training(AUGMENTATION, sets[last], classes, augmented, scale)
    truths = {
        "exact truth": training("exact truth", exact, classes, plain, scale),
        "exact truth, augmented": training("exact truth", exact, classes, augmented, scale),
    }
    scores = mious(jobs | truths, scale.seeds)
    for name in jobs:
        truth = "exact truth, augmented" if name == AUGMENTATION else "exact truth"
        ratios = scores[name] / scores[truth]
        found = {"transfer": float(ratios.mean()), "spread": float(ratios.std())}
        table[name] = table.get(name, {}) | found


def training(
    name: str, path: Path, classes: tuple[str, ...], recipe: TrainingRecipe, scale: Scale
) -> Callable[[int], Training]:
    """Return the training on a file's samples, for a seed."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    held_out = scale.held_out

    def seeded(seed: int) -> Training:
        return Training(name, FileSet(path), content, classes, replace(recipe, seed=seed), held_out)

    return seeded


def shares_kept(made: Night) -> dict[str, float]:
    """Return the share of generated images that a run keeps: of one object, and of all prompts."""
    one = made.table["classes"].map(len) == 1
    return {
        "kept, one object": float(made.table.loc[one, "keep"].mean()),
        "kept": float(made.table["keep"].mean()),
    }


def generated(made: Night, rows: pd.DataFrame, ids: dict[str, int]) -> Examples:
    """Return these rows of the run, with the oracle's labels as the reference."""
    images = made.read("synthesize", "image", rows)
    cross, spread = (made.read("synthesize", field, rows) for field in ("cross", "attention"))
    return Examples(images, cross, spread, class_ids(rows, ids), load_oracle().see(images).labels)


def drawn(settings: Settings, count: int, ids: dict[str, int]) -> Examples:
    """Return held-out scenes of one object, noised half way and denoised under the recorder; the
    reference is exact.
    """
    rows, images, truth = drawn_rows(settings, count)
    maps = [denoise(settings, batch, images[batch.index]) for batch in batches(rows)]
    cross, spread = (np.concatenate(fields) for fields in zip(*maps, strict=True))
    return Examples(images, cross, spread, class_ids(rows, ids), truth)


def class_ids(rows: pd.DataFrame, ids: dict[str, int]) -> list[list[int]]:
    return [[ids[name] for name in names] for names in rows["classes"]]


def learnt(made: Night, steps: int) -> dict[str, tuple[Night, str]]:
    """Return the same images with noise learning, then with its pixel filter as well.

    Each is a run, and the stage whose labels it publishes.
    """
    learning = made.settings.select.model_copy(update=LEARNING | {"fold_steps": steps})
    filtered = learning.model_copy(update={"pixel_loss": PIXEL_LOSS})
    generation = ["synthesize", "refine"]
    ranked = continued(made, "learning", learning, generation)
    sure = continued(ranked, "filter", filtered, [*generation, "screen", "hold-out"])
    return {"+ noise learning": (ranked, "refine"), "+ pixel filter": (sure, "select")}


def continued(made: Night, name: str, select: SelectSettings, stages: Sequence[str]) -> Night:
    """Return a run with other settings of selection that shares the `stages` of `made`, and the
    networks that judged its samples.
    """
    store = Path(made.settings.store.url)
    run_name = f"{made.settings.name}-{name}"
    settings = made.settings.model_copy(update={"name": run_name, "select": select})
    shared = {
        stage_folder(made.settings.name, stage): stage_folder(run_name, stage) for stage in stages
    }
    for fold in range(select.folds):
        network = f"checkpoints/{made.version}-fold-{fold}"
        shared[network] = f"checkpoints/{version_of(settings)}-fold-{fold}"
    for source, target in shared.items():
        if (store / source).exists() and not (store / target).exists():
            shutil.copytree(store / source, store / target, copy_function=os.link)
    return run_night(settings)


def training_file(name: str, of: str, images: NDArray[np.uint8], labels: Labels) -> Path:
    """Write images and labels to train on, and return the file."""
    path = cache_path(name, of, ".npz")
    np.savez(path, images=images, labels=labels)
    return path


def published_set(name: str, made: Night, count: int) -> Path:
    """Write `count` samples of a run's version; drawn evenly, as composed scenes come last."""
    published = SegmentationDataset(made.store.url, made.version)
    chosen = np.random.default_rng(0).permutation(len(published))[:count]
    print(f"{made.version}: {len(published)} samples published, {len(chosen)} used", flush=True)
    items = [published[index] for index in chosen.tolist()]
    images = np.stack([item["image"].numpy().transpose(1, 2, 0) for item in items])
    labels = np.stack([item["label"].numpy() for item in items])
    return training_file(name, made.version, images, labels)


def drawn_file(count: int) -> Path:
    """Write training scenes with exact labels."""
    scenes = [world.draw(seed) for seed in range(count)]
    images = np.stack([scene.image for scene in scenes])
    return training_file("drawn", str(count), images, np.stack([scene.label for scene in scenes]))


class FileSet(Dataset[LabelledItem]):
    """A file of `training_file` as a labelled set, read when its first item is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._read()["labels"])

    def __getitem__(self, index: int) -> LabelledItem:
        arrays = self._read()
        image = torch.from_numpy(arrays["images"][index].transpose(2, 0, 1).copy())
        return {
            "image": image,
            "label": torch.from_numpy(arrays["labels"][index]),
            "id": str(index),
        }

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "_arrays": {}}

    def _read(self) -> dict[str, NDArray[np.uint8]]:
        if not self._arrays:
            with np.load(self._path) as stored:
                self._arrays = {name: stored[name] for name in ("images", "labels")}
        return self._arrays


if __name__ == "__main__":
    run("ablation", main)
