"""Figures of a comparison: pure functions of evaluations, pixel counts and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.compare.plan import LETTERS
from tasks.evaluate.bootstrap import LEAST_IMAGES, paired_interval
from tasks.evaluate.measure import Counts, iou_of_counts

__all__ = [
    "check_one_set",
    "class_rows",
    "contender",
    "differences",
    "image_mious",
    "most_different",
    "shown",
]

Figures = dict[str, Any]


def check_one_set(evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Raise `ValueError` for evaluations of different sets."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if other["fingerprint"] != first["fingerprint"]:
            raise ValueError(
                f"the evaluations are of different sets, {first['set']} "
                f"({first['fingerprint'][:12]}) and {other['set']} ({other['fingerprint'][:12]}); "
                "evaluate all on one set"
            )


def contender(
    position: int, meta: Mapping[str, Any], evaluation: Mapping[str, Any], cost: Mapping[str, Any]
) -> Figures:
    """Return the figures of one segmenter; `meta` is its checkpoint's meta.json."""
    recipe = meta.get("recipe", {})
    return {
        "letter": LETTERS[position],
        "checkpoint": meta["checkpoint"],
        "model": Path(str(recipe.get("config", "?"))).stem,
        "version": meta["version"],
        "trained": {
            "images": recipe.get("steps", 0) * recipe.get("batch_size", 0),
            "seconds": meta.get("seconds", 0.0),
        },
        **{
            name: evaluation[name]
            for name in ("miou", "pixel_accuracy", "calibration_error", "iou", "reliability")
        },
        "cost": dict(cost),
    }


def differences(
    counts: Sequence[Counts], known: NDArray[np.bool_]
) -> list[dict[str, float] | None]:
    """Return the mIoU difference of each to the first, and its 95 % bootstrap interval.

    `counts` are (images, 3, classes) of the same images. None for the first one, and for all if
    there are too few images.
    """
    if len(counts[0]) < LEAST_IMAGES:
        return [None] * len(counts)
    found = [paired_interval(counts[0], other, known) for other in counts[1:]]
    return [None, *({"difference": f.difference, "low": f.low, "high": f.high} for f in found)]


def most_different(counts: Sequence[Counts], known: NDArray[np.bool_], most: int) -> list[int]:
    """Return the images whose mIoU differs most between the segmenters, the greatest first.

    An image's mIoU is over the classes that its label or the prediction shows. Images without any
    difference are left out.
    """
    means = image_mious(counts, known)
    spread = means.max(0) - means.min(0)
    order = np.argsort(-spread, kind="stable")[:most]
    return [int(image) for image in order if spread[image] > 0]


def image_mious(counts: Sequence[Counts], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mIoU of each image (segmenters, images) in [0, 1]; 0 for one without a label."""
    iou = iou_of_counts(np.stack(counts)[..., known])
    means: NDArray[np.float64] = np.nansum(iou, -1) / np.maximum((~np.isnan(iou)).sum(-1), 1)
    return means


def class_rows(contenders: Sequence[Mapping[str, Any]]) -> list[Figures]:
    """Return rows of `class`, an IoU per letter and, for two segmenters, their `difference`.

    IoU is in [0, 1], None where a class is not in the set. The mean comes first, then the classes:
    of two segmenters by rising difference (second less first), else by the falling spread.
    """
    names = list(dict.fromkeys(name for each in contenders for name in each["iou"]))
    mean = _row("mean", contenders, [each["miou"] for each in contenders])
    rows = [
        _row(name, contenders, [each["iou"].get(name) for each in contenders]) for name in names
    ]
    return [mean, *sorted(rows, key=_rank)]


def _row(
    name: str, contenders: Sequence[Mapping[str, Any]], values: Sequence[float | None]
) -> Figures:
    row: Figures = {"class": name}
    row |= {each["letter"]: value for each, value in zip(contenders, values, strict=True)}
    if len(values) == 2:
        first, second = values
        missing = first is None or second is None
        row["difference"] = None if missing else round(second - first, 6)  # type: ignore[operator]
    return row


def _rank(row: Mapping[str, Any]) -> tuple[bool, float]:
    if "difference" in row:
        return row["difference"] is None, row["difference"] or 0.0
    values = [value for name, value in row.items() if name != "class" and value is not None]
    return not values, min(values, default=0.0) - max(values, default=0.0)


def shown(difference: Mapping[str, float] | None) -> str:
    """Return a difference and its interval in points, as text; a dash for None."""
    if difference is None:
        return "—"
    points = [100 * difference[name] for name in ("difference", "low", "high")]
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*points)
