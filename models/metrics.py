"""Metrics of label maps: IoU, accuracy, seen and unseen classes, calibration.

Counts add up over batches, so no metric needs a whole set in memory. Label maps are (…, H, W)
integer arrays, 0 = background, 255 = ignore. The IoU of class c is TP / (TP + FP + FN), as in the
Pascal VOC development kit. A class that occurs in neither map has no IoU (NaN) and is left out of
the mean, as in mmsegmentation's IoUMetric.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IGNORE",
    "calibration_bins",
    "class_iou",
    "confusion_matrix",
    "entropy",
    "expected_calibration_error",
    "harmonic_mean",
    "kernel_distance",
    "least_iou",
    "mask_iou",
    "mean_iou",
    "pixel_accuracy",
    "seen_unseen",
]

IGNORE = 255
# of the calibration error; Guo et al. 2017, "On Calibration of Modern Neural Networks", §5
BINS = 15


def confusion_matrix(
    prediction: NDArray[Any], truth: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """Return pixel counts (num_classes, num_classes): rows truth, columns prediction.

    Pixels whose truth is 255 are left out.
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
    """Return the IoU of each class (num_classes,), in [0, 1].

    NaN where a class is in neither truth nor prediction.
    """
    hit = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hit
    iou: NDArray[np.float64] = np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
    return iou


def mean_iou(iou: NDArray[np.float64]) -> float:
    """Return the mean over the classes that have an IoU; NaN if none has."""
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")


def pixel_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of counted pixels with the right class, in [0, 1]; NaN without pixels."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else float("nan")


def harmonic_mean(a: float, b: float) -> float:
    """Return 2ab / (a + b), 0 if both are 0; sums up seen and unseen IoU (Xian et al. 2017)."""
    return 2 * a * b / (a + b) if a + b else 0.0


def seen_unseen(iou: NDArray[np.float64], unseen: Collection[int]) -> tuple[float, float, float]:
    """Return mean IoU of the classes outside and inside `unseen` (ids), and their harmonic mean."""
    hidden = np.isin(np.arange(len(iou)), list(unseen))
    seen_mean, unseen_mean = mean_iou(iou[~hidden]), mean_iou(iou[hidden])
    return seen_mean, unseen_mean, harmonic_mean(seen_mean, unseen_mean)


def calibration_bins(
    probabilities: NDArray[np.floating[Any]], truth: NDArray[Any], bins: int = BINS
) -> NDArray[np.float64]:
    """Return pixel count, sum of confidences and hits per bin of confidence, (3, bins).

    Results of batches add up. Confidence is the largest class probability. `probabilities` is
    (N, C, H, W) softmax in [0, 1], `truth` (N, H, W); truth 255 is left out.
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
    """Return the mean |confidence - accuracy| over bins, weighted by pixels, in [0, 1].

    Guo et al. 2017, eq. 3. NaN without pixels.
    """
    count, confidence, hit = sums
    return float(np.abs(confidence - hit).sum() / count.sum()) if count.sum() else float("nan")


def entropy(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the entropy of each pixel's class probabilities (C, H, W), (H, W) in [0, 1].

    It is divided by log C: 0 is a certain prediction, 1 an even one over all C > 1 classes.
    """
    positive = np.maximum(probabilities, np.finfo(np.float32).tiny)
    summed = -(probabilities * np.log(positive)).sum(0, dtype=np.float64)
    found: NDArray[np.float64] = np.clip(summed / np.log(len(probabilities)), 0, 1)
    return found


def kernel_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the squared distance between two sets of images by their features (n, d) and (m, d).

    The unbiased maximum mean discrepancy with the kernel (x·y/d + 1)³ (Bińkowski et al. 2018,
    "Demystifying MMD GANs", §4). It is 0 on average for sets of one distribution, and may be below.
    """
    dimension = a.shape[1]
    within = []
    for each in (a, b):
        kernel = (each @ each.T / dimension + 1) ** 3
        count = len(each)
        within.append((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
    between = ((a @ b.T / dimension + 1) ** 3).mean()
    return float(sum(within) - 2 * between)


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the IoU of two masks of one shape, in [0, 1]; 0 if both are empty."""
    _check_shapes(a.shape, b.shape)
    return float((a & b).sum() / max((a | b).sum(), 1))


def least_iou(prediction: NDArray[Any], truth: NDArray[Any], ids: Sequence[int]) -> float:
    """Return the least IoU of the classes `ids`, in [0, 1]; pixels whose truth is 255 do not count.

    Without ids it is the share of these pixels that are predicted as background.
    """
    _check_shapes(prediction.shape, truth.shape)
    counted = truth != IGNORE
    found, label = prediction[counted], truth[counted]
    if not ids:
        return float((found == 0).mean()) if found.size else 0.0
    return min(mask_iou(found == number, label == number) for number in ids)


def _check_shapes(prediction: tuple[int, ...], truth: tuple[int, ...]) -> None:
    if prediction != truth:
        raise ValueError(
            f"maps differ in shape: {prediction} against {truth}; compare at the truth's own size"
        )


def _check_ids(name: str, ids: NDArray[np.int64], num_classes: int) -> None:
    if ids.size and ids.max() >= num_classes:
        raise ValueError(
            f"{name} holds class id {int(ids.max())}, but there are {num_classes} classes "
            f"(0..{num_classes - 1}); map its ids to the vocabulary's, or to 255 to ignore pixels"
        )
