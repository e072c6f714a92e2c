"""Judge: which samples may be published. Every rejected sample has one reason.

The tests follow DiffuMask's pre-filters and its "count, rank, prune" (ICCV 2023, noise learning),
and Free-Mask's rule that only classes count which occur in the label. A sample is judged by itself:
by its image, its label, and the label's agreement with a second label of the same image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.settings import SelectSettings
from models.scenes import IGNORE, components

__all__ = ["REASONS", "Reason", "drop_high_losses", "judge_rows"]

Images = NDArray[Any]
Labels = NDArray[np.uint8]
Flags = NDArray[np.bool_]

Reason = Literal[
    "nan",
    "black",
    "absent",
    "ignored",
    "missing class",
    "area",
    "components",
    "confidence",
    "disagreement",
    "rank",
]
REASONS: dict[Reason, str] = {  # in the order of the tests; the first that applies is given
    "nan": "the model returned values that are not finite",
    "black": "the image is black or of one colour",
    "absent": "the attention of a phrase of the prompt has no contrast: the image does not show it",
    "ignored": "too much of the label is ignored (255)",
    "missing class": "a class of the prompt has no pixel",
    "area": "a class of the prompt is too small, the foreground is too large, "
    "or a sample without classes has foreground",
    "components": "a class has too many pieces, or its largest piece is a small part of it",
    "confidence": "the labelled pixels are too uncertain",
    "disagreement": "a second label of the same image differs too much",
    "rank": "held-out networks trust the labels of others of its class more",
}

SPECK = 0.001  # share of the image; smaller pieces are not counted
BLACK = 8  # brightest 8-bit level of an image that counts as black
FLAT = 3  # largest range of 8-bit levels, per channel, of an image of one colour; drawn snow has 14


def judge_rows(
    images: Images,
    labels: Labels,
    table: pd.DataFrame,
    settings: SelectSettings,
    ids: Mapping[str, int],
) -> pd.DataFrame:
    """Verdicts on images (B, H, W, 3) in 0..255 with labels (B, H, W) uint8, one row each.

    `table` has `row`, `id`, `kind` and `classes` as planned (no classes: a negative), `confidence`
    and `consistency` in [0, 1], and optionally `finite` (False: the model returned NaN), `contrast`
    (NaN: not measured), and `measured` (True: the first two are also known of a negative). `ids`
    gives the label value of each class. Pieces of composed rows are not judged, since those of
    their sources were.

    Columns returned: `row`, `id`, `keep`, `reason` (of `REASONS`; "" if kept), `score` (confidence
    times consistency; 1 for negatives), `confidence`, `consistency`, `coverage` and `ignored`
    (shares of the image), `components` and `largest` (of the worst class). Raises `ValueError` for
    shapes that do not match and for label values that no class has.
    """
    _check(images, labels, table, ids)
    planned = _planned(table["classes"], ids)
    columns = table[["row", "id", "confidence", "consistency"]].reset_index(drop=True)
    columns = columns.join(_measure(labels, planned))
    negative = np.asarray(~planned.any(1))
    failed = _failed_images(images, table, settings, negative)
    failed |= _failed_labels(table, columns, settings, negative)
    score = np.where(negative, 1.0, columns["confidence"] * columns["consistency"])
    reason = _first(failed)
    verdict = {"keep": reason == "", "reason": reason, "score": np.nan_to_num(score)}
    measures = columns.drop(columns=["row", "id", "least"])
    return pd.concat([columns[["row", "id"]], pd.DataFrame(verdict), measures], axis=1)


def _first(failed: Mapping[Reason, Flags]) -> NDArray[np.str_]:
    """The first reason, in the order of `REASONS`, that applies to each row, "" for none."""
    reasons = [reason for reason in REASONS if reason in failed]
    flags = np.stack([failed[reason] for reason in reasons])
    first = np.where(flags.any(0), 1 + flags.argmax(0), 0)
    return np.array(["", *reasons])[first]


def _check(images: Images, labels: Labels, table: pd.DataFrame, ids: Mapping[str, int]) -> None:
    if images.shape != (*labels.shape, 3) or len(labels) != len(table):
        raise ValueError(
            f"images {images.shape}, labels {labels.shape} and a table of {len(table)} rows do not "
            f"fit: (B, H, W, 3), (B, H, W) and B are needed; make the shard again"
        )
    known = np.isin(np.arange(IGNORE + 1), [0, IGNORE, *ids.values()])
    wrong = ~known[labels].reshape(len(labels), -1).all(1)
    if wrong.any():
        index = int(np.argmax(wrong))
        value = int(labels[index][~known[labels[index]]][0])
        raise ValueError(
            f"label of {table['id'].iloc[index]} holds {value}; valid are 0, {IGNORE} and the "
            f"vocabulary's ids {sorted(ids.values())}; make it with this vocabulary"
        )


def _planned(classes: pd.Series, ids: Mapping[str, int]) -> Flags:
    """Which label values the classes of each row have, (B, 256)."""
    planned = np.zeros((len(classes), IGNORE + 1), np.bool_)
    for row, names in enumerate(classes):
        planned[row, [ids[name] for name in names]] = True
    return planned


def _measure(labels: Labels, planned: Flags) -> pd.DataFrame:
    """Coverage, ignored share, least share of a planned class, and pieces of each label."""
    batch = len(labels)
    pixels = labels[0].size if batch else 1
    flat = labels.reshape(batch, -1) + (IGNORE + 1) * np.arange(batch)[:, None]
    shares = np.bincount(flat.ravel(), minlength=batch * (IGNORE + 1)).reshape(batch, -1) / pixels
    pieces = [_pieces(label) for label in labels]
    return pd.DataFrame(
        {
            "coverage": shares[:, 1:IGNORE].sum(1),
            "ignored": shares[:, IGNORE],
            "least": np.where(planned, shares, np.inf).min(1),
            "components": np.array([count for count, _ in pieces], np.int64),
            "largest": np.array([share for _, share in pieces], np.float64),
        }
    )


def _pieces(label: Labels) -> tuple[int, float]:
    """Number of pieces, without specks, of the class with most; least share of a largest piece."""
    areas: dict[int, list[int]] = {}
    for component in components(label):
        areas.setdefault(component.class_id, []).append(component.area)
    counts = [sum(area >= SPECK * label.size for area in of_class) for of_class in areas.values()]
    return max(counts, default=0), min((max(a) / sum(a) for a in areas.values()), default=1.0)


def _failed_images(
    images: Images, table: pd.DataFrame, settings: SelectSettings, negative: Flags
) -> dict[Reason, Flags]:
    """Which rows fail the tests of the image."""
    count = len(table)
    finite = table["finite"].to_numpy(bool) if "finite" in table else np.ones(count, np.bool_)
    contrast = np.full(count, np.nan)
    if "contrast" in table:
        contrast = table["contrast"].to_numpy(np.float64)
    brightest = images.max((1, 2)).astype(np.float64)  # (B, 3)
    darkest = images.min((1, 2)).astype(np.float64)
    return {
        "nan": ~finite | ~np.isfinite(images).all((1, 2, 3)),
        "black": (brightest <= BLACK).all(1) | (brightest - darkest <= FLAT).all(1),
        "absent": ~negative & (contrast < settings.min_contrast),
    }


def _failed_labels(
    table: pd.DataFrame, measured: pd.DataFrame, settings: SelectSettings, negative: Flags
) -> dict[Reason, Flags]:
    """Which rows fail the tests of the label. Measures that are NaN fail."""
    value = {name: measured[name].to_numpy() for name in measured.columns}
    largest_area = np.where(negative, 0.0, settings.max_area)
    composed = (table["kind"] == "composed").to_numpy()
    trusted = ~negative
    if "measured" in table:
        trusted |= table["measured"].to_numpy(bool)
    in_pieces = (value["components"] > settings.max_components) | (
        value["largest"] < settings.min_largest
    )
    return {
        "ignored": value["ignored"] > settings.max_ignored,
        "missing class": value["least"] == 0,
        "area": (value["least"] < settings.min_area) | (value["coverage"] > largest_area),
        "components": ~composed & in_pieces,
        "confidence": trusted & ~(value["confidence"] >= settings.min_confidence),
        "disagreement": trusted & ~(value["consistency"] >= settings.min_consistency),
    }


def drop_high_losses(
    labels: Labels, losses: NDArray[np.floating[Any]], means: Mapping[int, float], multiple: float
) -> Labels:
    """Labels (B, H, W) uint8, 255 where the loss exceeds `multiple` times its class's mean loss.

    `losses` (B, H, W) are held-out losses per pixel, `means` those per label value. This is
    FreeMask's filter (NeurIPS 2023, section 3.3) with the run's own held-out samples in place of
    real ones.
    """
    bound = np.full(IGNORE + 1, np.inf)
    bound[list(means)] = [multiple * mean for mean in means.values()]
    return np.where(losses > bound[labels], np.uint8(IGNORE), labels)
