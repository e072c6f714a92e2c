"""Measure: pixel counts of a network's predictions on labelled images, and the figures from them.

Counts are kept per image, so that figures of any part of a set, and their bootstrap intervals, need
no second prediction. Everything is computed in full precision.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from models import metrics

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from torch.utils.data import Dataset

    from models.segmenters import Inference, LabelledItem, Segmenter

__all__ = [
    "HITS",
    "PREDICTED",
    "TRUTH",
    "Counts",
    "Evaluation",
    "Measured",
    "content_of",
    "evaluate_segmenter",
    "iou_of_counts",
    "measure",
    "summarise",
]

# Pixel counts (images, 3, classes): predicted correctly, labelled, predicted as each class. Pixels
# whose label is 255 count for none.
Counts = NDArray[np.int64]
HITS = 0
TRUTH = 1
PREDICTED = 2


@dataclass(frozen=True)
class Evaluation:
    """How good a segmenter is on one set, all figures in [0, 1].

    `iou` is by class name, None where a class is in neither truth nor prediction. `miou` is its
    mean over the classes that the set can show, background included. `calibration_error` is the
    expected one of the softmax. `seen`, `unseen` and `harmonic` are None unless unseen classes were
    named. `reliability` are the sums of `metrics.calibration_bins`, (3, `metrics.BINS`).
    `uncertainty` is the mean `metrics.entropy` of each class's pixels, None without any.
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
    reliability: list[list[float]] = field(default_factory=list)
    uncertainty: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a segmenter predicts on each image of a set.

    `bins` (images, 3, `metrics.BINS`) are the sums of `metrics.calibration_bins`, and `entropy`
    (images, classes) those of `metrics.entropy` over the pixels of each class. `digests` are the
    SHA-256 of each image's id, pixels and label; `contents` those of its pixels and size alone.
    """

    counts: Counts
    bins: NDArray[np.float64]
    entropy: NDArray[np.float64]
    digests: list[bytes]
    contents: list[bytes]

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def labelled(self) -> bool:
        """Whether any pixel has a label."""
        return bool(self.counts[:, TRUTH].sum())

    def part(self, chosen: NDArray[np.bool_]) -> Measured:
        """Return the images for which `chosen` (images,) is True."""
        positions = np.flatnonzero(chosen)
        return Measured(
            self.counts[positions],
            self.bins[positions],
            self.entropy[positions],
            [self.digests[position] for position in positions],
            [self.contents[position] for position in positions],
        )

    def fingerprint(self, classes: Sequence[str]) -> str:
        """Return the SHA-256 (64 hex digits) of classes, images and labels, in order."""
        digest = hashlib.sha256(json.dumps(list(classes)).encode())
        for one in self.digests:
            digest.update(one)
        return digest.hexdigest()


def measure(
    segmenter: Segmenter,
    samples: Dataset[Any],
    batch_size: int = 16,
    report: Callable[[int], None] = lambda done: None,
    inference: Inference | None = None,
) -> Measured:
    """Predict every image and count its pixels; neighbours of one size are predicted together.

    `report` gets the number of images of each batch done. Without `inference`, images are predicted
    whole, once. Raises `ValueError` for label ids that the segmenter does not have.
    """
    import torch

    from models.segmenters import Inference, batches_of_one_size, predict_probabilities

    count = len(cast(Sized, samples))
    classes = len(segmenter.classes)
    found = Measured(
        np.zeros((count, 3, classes), np.int64),
        np.zeros((count, 3, metrics.BINS)),
        np.zeros((count, classes)),
        [],
        [],
    )
    chosen = inference or Inference()
    items = (samples[index] for index in range(count))
    for batch in batches_of_one_size(items, batch_size, max(chosen.scales)):
        images = torch.stack([item["image"] for item in batch])
        probabilities = predict_probabilities(segmenter, images, inference=chosen).numpy()
        for item, one in zip(batch, probabilities, strict=True):
            _add(found, item, one)
        report(len(batch))
    return found


def _add(found: Measured, item: LabelledItem, probabilities: NDArray[np.float32]) -> None:
    """Count one image with its softmax (classes, H, W)."""
    truth = item["label"].numpy()
    position = len(found)
    confusion = metrics.confusion_matrix(probabilities.argmax(0), truth, len(probabilities))
    found.counts[position] = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    found.bins[position] = metrics.calibration_bins(probabilities[None], truth[None])
    uncertain = metrics.entropy(probabilities)
    counted = truth != metrics.IGNORE
    found.entropy[position] = np.bincount(truth[counted], uncertain[counted], len(probabilities))
    digest = hashlib.sha256(item["id"].encode())
    digest.update(item["image"].numpy().tobytes())
    digest.update(truth.tobytes())
    found.contents.append(content_of(item))
    found.digests.append(digest.digest())


def content_of(item: LabelledItem) -> bytes:
    """Return the SHA-256 of an item's pixels and size."""
    pixels = item["image"].numpy()
    content = hashlib.sha256(json.dumps(pixels.shape).encode())
    content.update(pixels.tobytes())
    return content.digest()


def iou_of_counts(sums: NDArray[Any]) -> NDArray[np.float64]:
    """Return the IoU (…, classes) in [0, 1] of pixel counts (…, 3, classes), summed over images.

    NaN where a class is in neither truth nor prediction.
    """
    hits = sums[..., HITS, :].astype(np.float64)
    union = sums[..., TRUTH, :] + sums[..., PREDICTED, :] - hits
    iou: NDArray[np.float64] = np.divide(
        hits, union, out=np.full_like(hits, np.nan), where=union > 0
    )
    return iou


def summarise(
    measured: Measured,
    name: str,
    classes: Sequence[str],
    known: Collection[str],
    unseen: Collection[str] = (),
) -> Evaluation:
    """Return the figures of a measured set called `name`.

    `known` are the classes that the set can show; only they count for the means. `unseen` are
    classes that the training had no labels of. Raises `ValueError` for a set without a labelled
    pixel.
    """
    if not measured.labelled:
        raise ValueError(
            f"set {name!r} has no labelled pixel in {len(measured)} images; label at least one"
        )
    sums = measured.counts.sum(0)
    iou = iou_of_counts(sums)
    shown = np.where(np.isin(classes, list(known)), iou, np.nan)
    hidden = [index for index, name in enumerate(classes) if name in unseen]
    means = metrics.seen_unseen(shown, hidden) if hidden else (None, None, None)
    seen, unseen_mean, harmonic = map(_known, means)
    by_class = zip(classes, iou, strict=True)
    truth = sums[TRUTH]
    uncertain = np.where(truth > 0, measured.entropy.sum(0) / np.maximum(truth, 1), np.nan)
    return Evaluation(
        name,
        measured.fingerprint(classes),
        len(measured),
        metrics.mean_iou(shown),
        float(sums[HITS].sum() / sums[TRUTH].sum()),
        metrics.expected_calibration_error(measured.bins.sum(0)),
        {name: _known(float(value)) for name, value in by_class},
        seen,
        unseen_mean,
        harmonic,
        measured.bins.sum(0).tolist(),
        {name: _known(float(value)) for name, value in zip(classes, uncertain, strict=True)},
    )


def _known(value: float | None) -> float | None:
    """Return None for NaN, which says that the set shows none of the classes."""
    return None if value is None or math.isnan(value) else value


def evaluate_segmenter(
    segmenter: Segmenter,
    samples: Dataset[Any],
    name: str,
    *,
    known: Collection[str] | None = None,
    unseen: Collection[str] = (),
    batch_size: int = 16,
) -> Evaluation:
    """Return the figures of a segmenter on one labelled set called `name`.

    `known` None stands for all classes. Raises what `measure` and `summarise` raise.
    """
    measured = measure(segmenter, samples, batch_size)
    return summarise(measured, name, segmenter.classes, known or segmenter.classes, unseen)
