"""Evaluate: a checkpoint on labelled pictures that no training saw → per-class IoU, accuracy,
calibration.

    checkpoints/<name>/evaluations/<fingerprint[:16]>.json
    runs/<run>/evaluation.json                               the same, for the report of the version's run

Two evaluations can be compared if they are of one set: the same pictures, labels and classes, which
is what their fingerprints say. Everything is computed in full precision, on whole pictures at their
own size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from prefect import task

from infra.blocks import open_store
from infra.settings import Settings
from infra.store import check_name
from infra.voc import VocFolder
from models import metrics
from tasks.run.progress import Report, measured
from tasks.train.checkpoints import load_checkpoint, read_meta
from tasks.train.train import write_to_run

if (
    TYPE_CHECKING
):  # mmsegmentation takes seconds to import, so it is loaded where an evaluation starts
    from torch.utils.data import Dataset

    from models.segmenters import ArraySet, LabelledItem, Segmenter

__all__ = [
    "Evaluation",
    "drawn_truth",
    "evaluate",
    "evaluate_segmenter",
    "evaluation_path",
    "voc_photographs",
]


@dataclass(frozen=True)
class Evaluation:
    """How good a segmenter is on one set, all figures in [0, 1].

    `iou` is by class name, None where a class is in neither truth nor prediction; `miou` its mean
    over the classes that the set can show, background included. `calibration_error` is the expected
    one of the softmax. `seen`, `unseen` and `harmonic` are None unless unseen classes were named.
    """

    set: str
    fingerprint: str
    images: int
    miou: float
    pixel_accuracy: float
    calibration_error: float
    iou: dict[str, float | None]
    seen: float | None = None
    unseen: float | None = None
    harmonic: float | None = None


def drawn_truth(count: int, classes: Sequence[str]) -> ArraySet:
    """The first `count` held-out scenes of the drawn world, labelled with the ids of `classes`."""
    from models.segmenters import ArraySet, DrawnScenes

    return ArraySet(DrawnScenes(count), classes)


def voc_photographs(root: Path, split: str, classes: Sequence[str]) -> ArraySet:
    """Photographs of a folder in VOC layout, labelled with the ids of `classes`, by name if it has
    a `classes.txt`.
    """
    from models.segmenters import ArraySet

    return ArraySet(VocFolder(root, split, classes), classes)


def evaluate_segmenter(
    segmenter: Segmenter,
    samples: Dataset[Any],
    name: str,
    *,
    known: Collection[str] | None = None,
    unseen: Collection[str] = (),
    batch_size: int = 16,
    report: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Measure a segmenter on a labelled set called `name`; neighbours of one size are predicted
    together.

    `known` are the classes that the set can show (None: all); only they count for the means.
    `unseen` are classes that the training had no labels of. `report` is told of every picture done.
    Raises `ValueError` for a set without a labelled pixel, or with label ids that the segmenter
    does not have.
    """
    import torch

    from models.segmenters import batches_of_one_size, predict_probabilities

    tally, count = _Tally(segmenter.classes), len(cast(Sized, samples))
    for batch in batches_of_one_size((samples[index] for index in range(count)), batch_size):
        probabilities = predict_probabilities(
            segmenter, torch.stack([item["image"] for item in batch])
        )
        tally.add(batch, probabilities.numpy())
        report(len(batch))
    if not tally.confusion.sum():
        raise ValueError(
            f"set {name!r} has no labelled pixel in {count} pictures; give one that has"
        )
    return tally.summarise(name, count, known or segmenter.classes, unseen)


class _Tally:
    """Counts over batches, and the digest of what was counted."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._digest = hashlib.sha256(json.dumps(list(classes)).encode())
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)
        self._bins = np.zeros((3, metrics.BINS))

    def add(self, batch: Sequence[LabelledItem], probabilities: NDArray[np.float32]) -> None:
        """Count a batch of items of one size with their softmax (N, classes, H, W)."""
        for item in batch:
            for part in (
                item["id"].encode(),
                item["image"].numpy().tobytes(),
                item["label"].numpy().tobytes(),
            ):
                self._digest.update(part)
        truth = np.stack([item["label"].numpy() for item in batch])
        self.confusion += metrics.confusion_matrix(
            probabilities.argmax(1), truth, len(self._classes)
        )
        self._bins += metrics.calibration_bins(probabilities, truth)

    def summarise(
        self, name: str, images: int, known: Collection[str], unseen: Collection[str]
    ) -> Evaluation:
        """Turn the counts into figures."""
        iou = metrics.class_iou(self.confusion)
        shown = np.where(np.isin(self._classes, list(known)), iou, np.nan)
        hidden = [index for index, name in enumerate(self._classes) if name in unseen]
        means = metrics.seen_unseen(shown, hidden) if hidden else (None, None, None)
        pair = (
            None if mean is None or math.isnan(mean) else mean for mean in means
        )  # NaN: the set shows none of them
        return Evaluation(
            name,
            self._digest.hexdigest(),
            images,
            metrics.mean_iou(shown),
            metrics.pixel_accuracy(self.confusion),
            metrics.expected_calibration_error(self._bins),
            {
                name: None if math.isnan(value) else float(value)
                for name, value in zip(self._classes, iou, strict=True)
            },
            *pair,
        )


def evaluation_path(checkpoint: str, fingerprint: str) -> str:
    """Where the evaluation of a checkpoint on the set with that fingerprint lies in the store."""
    return f"checkpoints/{check_name('checkpoint', checkpoint)}/evaluations/{fingerprint[:16]}.json"


def _set_of(settings: Settings, classes: Sequence[str]) -> tuple[str, ArraySet]:
    """The set that the settings name: a folder in VOC layout, split `val`, or held-out drawn
    scenes.
    """
    chosen = settings.evaluate
    if chosen.voc is not None:
        return f"{Path(chosen.voc).name} val", voc_photographs(Path(chosen.voc), "val", classes)
    return f"{chosen.images} drawn scenes", drawn_truth(chosen.images, classes)


@task(name="evaluate", task_run_name="evaluate-{checkpoint}")
def evaluate(settings: Settings, checkpoint: str) -> dict[str, Any]:
    """Measure a checkpoint on the settings' set, write the evaluation beside it, and return it."""
    store = open_store(settings.store)
    meta = read_meta(store, checkpoint)
    name, samples = _set_of(settings, meta["classes"])
    segmenter = load_checkpoint(store, checkpoint)
    with Report("evaluate", checkpoint, len(samples)) as report:
        found = evaluate_segmenter(
            segmenter,
            samples,
            name,
            known=samples.known,
            unseen=meta.get("protocol", {}).get("unseen", ()),
            batch_size=settings.evaluate.batch_size,
            report=report,
        )
    result = asdict(found)
    known = {name: iou for name, iou in found.iou.items() if iou is not None}
    measured("evaluate", {"miou": {"": found.miou}, "iou": known})
    store.write_json(evaluation_path(checkpoint, found.fingerprint), result)
    write_to_run(store, meta["version"], "evaluation", {**result, "checkpoint": checkpoint})
    return result
