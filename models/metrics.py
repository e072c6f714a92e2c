"""How good a label map is, counted on confusion matrices: IoU, accuracy, seen against unseen
classes, calibration.

Counts add up over batches, so nothing here needs a whole set in memory. Label maps are (…, H, W)
integer arrays of any leading shape, 0 = background, 255 = ignore. IoU of class c is TP / (TP + FP +
FN), as in the Pascal VOC development kit; a class that occurs in neither map has no IoU (NaN) and
stays out of the mean, as in mmsegmentation's IoUMetric.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IGNORE",
    "calibration_bins",
    "class_iou",
    "confusion_matrix",
    "expected_calibration_error",
    "harmonic_mean",
    "label_iou",
    "mean_iou",
    "pixel_accuracy",
    "seen_unseen",
]

IGNORE = 255
BINS = (
    15  # of the calibration error; Guo et al. 2017, "On Calibration of Modern Neural Networks", §5
)


def confusion_matrix(
    prediction: NDArray[Any], truth: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """Pixel counts (num_classes, num_classes), rows the truth, columns the prediction; truth 255 is
    left out.

    Raises `ValueError` if the shapes differ, or an id that counts is not below `num_classes`.
    """
    _check_shapes(prediction.shape, truth.shape)
    counted = truth != IGNORE
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    _check_ids("truth", rows, num_classes)
    _check_ids("prediction", columns, num_classes)
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class (num_classes,) in [0, 1];

    NaN where a class is in neither truth nor prediction.
    """
    hit = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hit
    iou: NDArray[np.float64] = np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
    return iou


def mean_iou(iou: NDArray[np.float64]) -> float:
    """Mean over the classes that have an IoU; NaN if none has."""
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")


def pixel_accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of counted pixels with the right class, in [0, 1]; NaN if nothing was counted."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else float("nan")


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), 0 if both are 0: the zero-shot summary of seen and unseen IoU (Xian et al.
    2017).
    """
    return 2 * a * b / (a + b) if a + b else 0.0


def seen_unseen(iou: NDArray[np.float64], unseen: Collection[int]) -> tuple[float, float, float]:
    """Mean IoU of the classes outside and inside `unseen` (ids), and their harmonic mean."""
    hidden = np.isin(np.arange(len(iou)), list(unseen))
    seen_mean, unseen_mean = mean_iou(iou[~hidden]), mean_iou(iou[hidden])
    return seen_mean, unseen_mean, harmonic_mean(seen_mean, unseen_mean)


def calibration_bins(
    probabilities: NDArray[np.floating[Any]], truth: NDArray[Any], bins: int = BINS
) -> NDArray[np.float64]:
    """Sums to add up over batches: (3, bins) of pixel count, confidence and hits, by confidence of
    the winning class.

    `probabilities` is (N, C, H, W) softmax in [0, 1], `truth` (N, H, W); truth 255 is left out.
    """
    _check_shapes((probabilities.shape[0], *probabilities.shape[2:]), truth.shape)
    counted = truth != IGNORE
    confidence = probabilities.max(1)[counted].astype(np.float64)
    hit = (probabilities.argmax(1)[counted] == truth[counted]).astype(np.float64)
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    sums = [
        np.bincount(index, weights, minlength=bins)
        for weights in (np.ones_like(hit), confidence, hit)
    ]
    return np.stack(sums)


def expected_calibration_error(sums: NDArray[np.float64]) -> float:
    """Mean |confidence - accuracy| over the bins, weighted by their pixels, in [0, 1] (Guo et al.
    2017, eq. 3).
    """
    count, confidence, hit = sums
    return float(np.abs(confidence - hit).sum() / count.sum()) if count.sum() else float("nan")


def label_iou(label: NDArray[Any], reference: NDArray[Any], *, background: bool = False) -> float:
    """Mean class IoU of a label map against a reference of the same shape, at full coverage.

    Pixels where the label says 255 count as wrong: they take nothing from the reference's classes,
    so a label cannot gain by leaving its hard pixels out. Pixels where the reference says 255 are
    left out. The mean is over the classes that occur in either map; `background` says whether class
    0 is one of them. NaN if no class is left.
    """
    _check_shapes(label.shape, reference.shape)
    counted = reference != IGNORE
    said, true = label[counted].astype(np.int64), reference[counted].astype(np.int64)
    hit = np.bincount(true[said == true], minlength=IGNORE + 1)
    union = np.bincount(said, minlength=IGNORE + 1) + np.bincount(true, minlength=IGNORE + 1) - hit
    union[IGNORE] = 0
    if not background:
        union[0] = 0
    present = union > 0
    return float((hit[present] / union[present]).mean()) if present.any() else float("nan")


def _check_shapes(prediction: tuple[int, ...], truth: tuple[int, ...]) -> None:
    if prediction != truth:
        raise ValueError(
            f"maps differ in shape: {prediction} against {truth}; compare at the truth's own size"
        )


def _check_ids(name: str, ids: NDArray[np.int64], num_classes: int) -> None:
    if ids.size and ids.max() >= num_classes:
        raise ValueError(
            f"{name} holds class id {int(ids.max())}, but there are {num_classes} classes (0..{num_classes - 1}); "
            "map its ids to the vocabulary's, or to 255 to leave pixels out"
        )
