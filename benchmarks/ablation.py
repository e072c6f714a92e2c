"""What does each step buy? Labels, selection and training with one more step at a time, three
seeds.

Trainings of the rows are short, so that they tell the steps apart; the whole method's transfer is
that of `benchmarks.transfer`, which trains longer and on all that was published.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from benchmarks.claims import CACHE, Claim, Size, digest, run
from benchmarks.masks import batches, denoise, drawn_rows, iou_of
from benchmarks.night import Night, night, run_night
from benchmarks.transfer import one_a_core, published_evenly, trained_by, transferred
from infra.settings import RefineSettings, SelectSettings, Settings
from infra.store import Store
from models import masks
from models.embedded import world
from models.embedded.oracle import load_oracle
from models.masks import (
    IGNORE,
    AffinityNet,
    colour_scores,
    label_maps,
    object_scores,
    pamr,
    refine_labels,
    walk_labels,
)
from models.segmenters import TrainingRecipe, train_segmenter
from models.segmenters.samples import Augmentation, LabelledItem
from tasks.evaluate.evaluate import drawn_truth, evaluate_segmenter
from tasks.publish.version import version_of
from tasks.refine.affinity import learn_affinity, read_affinity
from tasks.train.train import class_names

Labels = NDArray[np.uint8]
Labeller = Callable[
    [Tensor, Tensor, Tensor, list[int]], Tensor
]  # image, plain maps, spread maps, ids → (1, H, W)

# Pictures, drawn scenes, steps of a training, held-out scenes, seeds
_SIZES = {
    "quick": (24, 12, 20, 10, 1),
    "default": (2000, 200, 400, 300, 3),
    "full": (8000, 1000, 10_000, 2000, 3),
}
CROP = (
    96,
    96,
)  # of a training: mIoU as with whole pictures after as many steps, at two thirds of the time
FIXED = 0.5  # of the map's maximum
LEARNING = {"folds": 3, "keep": 0.8}  # and the usual steps, or few in a quick run
PIXEL_LOSS = 4.0  # of its class's mean
AUGMENTED = Augmentation(paste=1.0, splice=0.3, blur=0.2, occlusion=0.2, perspective=0.2)
WHOLE = "+ parts that attention missed"  # and contours made whole


@dataclass(frozen=True)
class Pictures:
    """Images (n, H, W, 3), maps (n, P, r, r), the classes of each, and a label to compare with (n,
    H, W).
    """

    images: NDArray[np.uint8]
    cross: NDArray[np.float16]
    spread: NDArray[np.float16]
    classes: list[list[int]]
    reference: Labels


def labellers(net: AffinityNet) -> dict[str, Labeller]:
    """The steps from attention to label, each with all before it; last, DiffuMask's way in their
    place.
    """
    usual = RefineSettings()

    def fixed(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
        maps = F.interpolate(cross, size=image.shape[1:3], mode="bicubic", align_corners=False)
        lead = maps / maps.amax((-1, -2), keepdim=True).clamp_min(1e-12)
        return _named(torch.cat([torch.full_like(lead[:, :1], FIXED), lead], 1), ids)

    def split(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
        return _named(object_scores(cross, _size(image)), ids)

    def spread_out(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
        return _named(object_scores(spread, _size(image), cross), ids)

    def coloured(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
        return _named(_with_colours(image, cross, spread), ids)

    def followed(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
        scores = _with_colours(image, cross, spread)
        edges = pamr(image.permute(0, 3, 1, 2).float() / 255, scores, usual.pamr_iterations)
        return _named(edges, ids, usual.ignore_band)

    def whole(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
        return refine_labels(
            image,
            spread,
            ids,
            iterations=usual.pamr_iterations,
            band=usual.ignore_band,
            words=cross,
        ).label

    def walked(image: Tensor, cross: Tensor, spread: Tensor, ids: list[int]) -> Tensor:
        return walk_labels(image, spread, ids, net, words=cross).label

    return {
        "attention at a fixed threshold": fixed,
        "+ a threshold an image": split,
        "+ spread along self-attention": spread_out,
        "+ the object's colours": coloured,
        "+ edges (PAMR) and a band of 255": followed,
        WHOLE: whole,
        "DiffuMask: affinity, walk, CRF": walked,
    }


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _with_colours(image: Tensor, cross: Tensor, spread: Tensor) -> Tensor:
    scores = object_scores(spread, _size(image), cross)
    return (scores + colour_scores(image, scores, grow=False)) / 2


def _named(scores: Tensor, ids: list[int], band: float = 0.0) -> Tensor:
    return label_maps(scores, torch.tensor([[0, *ids]]), band).label


def labelled(name: str, way: Labeller, of: str, pictures: Pictures) -> Labels:
    """`label_all`, or what it gave before by the same code;

    DiffuMask's way takes a second of four pictures.
    """
    by = digest(code=(labellers, masks))
    path = _place(f"labels-{of}", f"{name} {len(pictures.images)} {by}", ".npy")
    if not path.exists():
        np.save(path, label_all(pictures, way))
    return np.asarray(np.load(path))


def _place(of: str, name: str, suffix: str) -> Path:
    path = CACHE / "ablation" / f"{of}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def label_all(pictures: Pictures, way: Labeller) -> Labels:
    """Every picture's label; one without classes is ground."""
    labels = np.zeros(pictures.images.shape[:3], np.uint8)
    for index, ids in enumerate(pictures.classes):
        if ids:
            maps = (
                torch.from_numpy(m[index][None, : len(ids)]).float()
                for m in (pictures.cross, pictures.spread)
            )
            labels[index] = way(torch.from_numpy(pictures.images[index])[None], *maps, ids)[
                0
            ].numpy()
    return labels


def label_ious(labels: Labels, pictures: Pictures) -> dict[str, float]:
    """Mean IoU with the reference over the classes that the prompts of one object, and of several,
    name.

    A pixel of 255 counts as not labelled; "sure" is the first with such pixels out of both.
    """
    one, several = (
        [i for i, c in enumerate(pictures.classes) if (len(c) > 1) == many and c]
        for many in (False, True)
    )
    sure = np.where(labels == IGNORE, IGNORE, pictures.reference)
    sets = {
        "one object": (one, pictures.reference),
        "sure": (one, sure),
        "several": (several, pictures.reference),
    }
    return {
        name: _mean_iou(labels, reference, rows, pictures.classes)
        for name, (rows, reference) in sets.items()
    }


def _mean_iou(
    labels: Labels, reference: Labels, rows: Sequence[int], classes: list[list[int]]
) -> float:
    return float(np.mean([iou_of(labels[r], reference[r], c) for r in rows for c in classes[r]]))


def main(size: Size) -> list[Claim]:
    count, truths, steps, held_out, seeds = _SIZES[size]
    made = night(size)
    ids = made.settings.load_vocabulary().ids
    learn_affinity.fn(made.settings)
    kept = generated(made, made.table[made.table["keep"]].head(count), ids)
    exact = drawn(made.settings, truths, ids)
    table, sets = {}, {}
    for name, way in labellers(read_affinity(made.store, made.settings.name)).items():
        labels, of_exact = (
            labelled(name, way, *of) for of in ((made.version, kept), ("drawn", exact))
        )
        sets[name] = kept_set(name, made.version, kept.images, labels)
        exactly = {
            "exact truth": _mean_iou(of_exact, exact.reference, range(truths), exact.classes)
        }
        table[name] = label_ious(labels, kept) | exactly | shares_kept(made)
        print(name, {column: round(value, 3) for column, value in table[name].items()}, flush=True)
    nights = learnt(made, min(SelectSettings().fold_steps, 3 * steps))
    for name, (learnt_night, stage) in nights.items():
        rows = learnt_night.table[learnt_night.table["keep"]]
        labels = learnt_night.read(stage, "label", rows)
        table[name] = label_ious(labels, generated(learnt_night, rows, ids)) | shares_kept(
            learnt_night
        )
    versions = {"+ composed scenes": made.version} | {
        name: each.version for name, (each, _) in nights.items()
    }
    sets |= {
        name: published_set(name, made.store, version, count) for name, version in versions.items()
    }
    sets["exact truth"] = drawn_set(count)
    plain = TrainingRecipe(steps=steps, crop=CROP)
    jobs = {name: (folder, plain) for name, folder in sets.items()}
    last, augmented = list(versions)[-1], replace(plain, augmentation=AUGMENTED)
    jobs |= {
        "+ augmentation": (sets[last], augmented),
        "exact truth, augmented": (sets["exact truth"], augmented),
    }
    scores = trained(jobs, class_names(ids), held_out, seeds)
    transfer = {name: ratios(name, scores) for name in jobs if "exact" not in name}
    for name, found in transfer.items():
        table[name] = table.get(name, {}) | {"transfer": found.mean(), "spread": found.std()}
    print(pd.DataFrame(table).T.loc[list(transfer)].round(3).to_string(), flush=True)
    whole = table[
        WHOLE
    ]  # as it comes: noise learning, its filter and these augmentations are a user's choice
    _, transfer_of_whole = transferred(made, size)
    return [
        Claim(
            "whole method: label against the oracle on kept one-object images",
            whole["one object"],
            ">= 0.92",
        ),
        Claim("the same against exact truth", whole["exact truth"], ">= 0.88"),
        Claim("share of one-object images kept", whole["kept, one object"], ">= 0.6"),
        Claim("prompts of several objects, label against the oracle", whole["several"], ">= 0.85"),
        Claim(
            "transfer of all it published, trained as long as transfer's, mean of the seeds",
            transfer_of_whole.mean(),
            ">= 0.92",
        ),
    ]


def shares_kept(made: Night) -> dict[str, float]:
    """Share of generated pictures that a night keeps, of those of one object and of all."""
    one = made.table["classes"].map(len) == 1
    return {
        "kept, one object": float(made.table.loc[one, "keep"].mean()),
        "kept": float(made.table["keep"].mean()),
    }


def ratios(name: str, scores: dict[str, list[float]]) -> NDArray[np.float64]:
    """A row's mIoU over exact truth's of the same seed, augmented alike."""
    exact = "exact truth, augmented" if name == "+ augmentation" else "exact truth"
    return np.array(scores[name]) / np.array(scores[exact])


def generated(made: Night, rows: pd.DataFrame, ids: dict[str, int]) -> Pictures:
    """Rows of the night, the oracle's label beside them."""
    images = made.read("synthesize", "image", rows)
    cross, spread = (made.read("synthesize", field, rows) for field in ("cross", "attention"))
    return Pictures(images, cross, spread, _ids(rows, ids), load_oracle().see(images).labels)


def drawn(settings: Settings, count: int, ids: dict[str, int]) -> Pictures:
    """Held-out scenes of one object, noised half way and denoised under the recorder, with exact
    labels.
    """
    rows, images, truth = drawn_rows(settings, count)
    maps = [denoise(settings, batch, images[batch.index]) for batch in batches(rows)]
    cross, spread = (np.concatenate(fields) for fields in zip(*maps, strict=True))
    return Pictures(images, cross, spread, _ids(rows, ids), truth)


def _ids(rows: pd.DataFrame, ids: dict[str, int]) -> list[list[int]]:
    return [[ids[name] for name in names] for names in rows["classes"]]


def learnt(made: Night, steps: int) -> dict[str, tuple[Night, str]]:
    """The same pictures with noise learning, then with its pixel filter as well: nights, and where
    their labels are.
    """
    learning = made.settings.select.model_copy(update=LEARNING | {"fold_steps": steps})
    filtered = learning.model_copy(update={"pixel_loss": PIXEL_LOSS})
    ranked = continued(made, "learning", learning, ["synthesize", "refine"])
    sure = continued(ranked, "filter", filtered, ["synthesize", "refine", "screen", "hold-out"])
    return {"+ noise learning": (ranked, "refine"), "+ pixel filter": (sure, "select")}


def continued(made: Night, name: str, select: SelectSettings, stages: Sequence[str]) -> Night:
    """A night of other settings of selection, which has the `stages` of `made` and the networks
    that judged them.
    """
    store, run = Path(made.settings.store.url), f"{made.settings.name}-{name}"
    settings = made.settings.model_copy(update={"name": run, "select": select})
    taken = {f"runs/{made.settings.name}/{stage}": f"runs/{run}/{stage}" for stage in stages}
    for fold in range(select.folds):
        taken[f"checkpoints/{made.version}-fold-{fold}"] = (
            f"checkpoints/{version_of(settings)}-fold-{fold}"
        )
    for source, target in taken.items():
        if (store / source).exists() and not (store / target).exists():
            shutil.copytree(store / source, store / target, copy_function=os.link)
    return run_night(settings)


def kept_set(name: str, version: str, images: NDArray[np.uint8], labels: Labels) -> Path:
    """A file of pictures and labels to train on, named by what they are."""
    path = _place(version, name, ".npz")
    np.savez(path, images=images, labels=labels)
    return path


def published_set(name: str, store: Store, version: str, count: int) -> Path:
    """Samples of a version, drawn as transfer draws them."""
    samples = published_evenly(store, version, count)
    items = [samples[index] for index in range(len(samples))]
    images = np.stack([item["image"].numpy().transpose(1, 2, 0) for item in items])
    return kept_set(name, version, images, np.stack([item["label"].numpy() for item in items]))


def drawn_set(count: int) -> Path:
    """Training scenes with exact labels."""
    scenes = [world.draw(seed) for seed in range(count)]
    return kept_set(
        "drawn",
        str(count),
        np.stack([s.image for s in scenes]),
        np.stack([s.label for s in scenes]),
    )


class Arrays(Dataset[LabelledItem]):
    """Such a file as a labelled set."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            self._images, self._labels = stored["images"], stored["labels"]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledItem:
        image = torch.from_numpy(self._images[index].transpose(2, 0, 1).copy())
        return {"image": image, "label": torch.from_numpy(self._labels[index]), "id": str(index)}


def trained(
    jobs: dict[str, tuple[Path, TrainingRecipe]], classes: Sequence[str], held_out: int, seeds: int
) -> dict[str, list[float]]:
    """mIoU on held-out scenes of a training of each job and seed, one process a core; finished ones
    are read.
    """
    todo = [
        (n, path, replace(recipe, seed=seed))
        for n, (path, recipe) in jobs.items()
        for seed in range(seeds)
    ]
    found: dict[str, list[float]] = {name: [] for name in jobs}
    with one_a_core() as workers:
        waiting = [
            workers.submit(train_one, path, list(classes), recipe, held_out)
            for _, path, recipe in todo
        ]
        for (name, *_), future in zip(todo, waiting, strict=True):
            found[name].append(future.result())
            print(f"{name}, seed {len(found[name]) - 1}: mIoU {found[name][-1]:.3f}", flush=True)
    return found


def train_one(path: Path, classes: list[str], recipe: TrainingRecipe, held_out: int) -> float:
    """Train on a file's pictures, or find that it was done."""
    with np.load(path) as stored:
        content = hashlib.sha256(stored["labels"].tobytes()).hexdigest()
    known = path.with_name(f"{path.stem}-{trained_by(recipe, held_out, content)}.json")
    if not known.exists():
        segmenter = train_segmenter(Arrays(path), classes, recipe).segmenter
        known.write_text(
            json.dumps(
                evaluate_segmenter(segmenter, drawn_truth(held_out, classes), "held-out").miou
            )
        )
    return float(json.loads(known.read_text()))


if __name__ == "__main__":
    run("ablation", main)
