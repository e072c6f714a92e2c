"""Stored: evaluations and their pixel counts in the store.

    checkpoints/<name>/evaluations/<fingerprint[:16]>.json      figures of both parts of the set
    checkpoints/<name>/evaluations/<fingerprint[:16]>.parquet   pixel counts per image and class

A class that neither label nor prediction of an image shows has no row. The table is written first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from infra.store import Store, StoreError
from tasks.evaluate.measure import HITS, PREDICTED, TRUTH, Counts
from tasks.schemas import Measurement
from tasks.train.checkpoints import checkpoint_folder

__all__ = [
    "evaluation_path",
    "list_evaluations",
    "read_counts",
    "read_evaluation",
    "write_evaluation",
]

_COLUMNS = {
    "decides": "bool",
    "image": "int",
    "class_id": "int",
    "hits": "int",
    "truth": "int",
    "predicted": "int",
}


def evaluation_path(checkpoint: str, fingerprint: str) -> str:
    """Return the path in the store of a checkpoint's evaluation on the set with `fingerprint`."""
    return f"{checkpoint_folder(checkpoint)}/evaluations/{fingerprint[:16]}.json"


def list_evaluations(store: Store, checkpoint: str) -> list[str]:
    """Return the paths of all evaluations of a checkpoint."""
    folder = f"{checkpoint_folder(checkpoint)}/evaluations"
    return [f"{folder}/{name}" for name in store.list(folder) if name.endswith(".json")]


def read_evaluation(store: Store, checkpoint: str, fingerprint: str) -> dict[str, Any] | None:
    """Return a checkpoint's evaluation on a set; None without one, or without its counts."""
    path = evaluation_path(checkpoint, fingerprint)
    if not (store.exists(path) and store.exists(_counts_path(path))):
        return None
    evaluation: dict[str, Any] = store.read_json(path, Measurement)
    return evaluation


def write_evaluation(
    store: Store,
    checkpoint: str,
    evaluation: Mapping[str, Any],
    reported: Counts,
    deciding: Counts,
) -> None:
    """Write an evaluation and the counts of its two parts."""
    path = evaluation_path(checkpoint, evaluation["fingerprint"])
    tables = [_table(reported, decides=False), _table(deciding, decides=True)]
    store.write_table(_counts_path(path), pd.concat(tables, ignore_index=True))
    store.write_json(path, evaluation)


def read_counts(
    store: Store, checkpoint: str, evaluation: Mapping[str, Any], *, decides: bool = True
) -> Counts:
    """Return the pixel counts (images, 3, classes) of the deciding part of a stored evaluation.

    Those of the reported part if `decides` is False.

    Raises `StoreError` for a table that does not fit the evaluation.
    """
    path = _counts_path(evaluation_path(checkpoint, evaluation["fingerprint"]))
    table = store.read_table(path, _COLUMNS)
    table = table[table["decides"] == decides]
    part = evaluation["decision"] if decides else evaluation
    counts = np.zeros((part["images"], 3, len(evaluation["iou"])), np.int64)
    _check_range(store, path, table, counts.shape)
    counts[table["image"], :, table["class_id"]] = table[["hits", "truth", "predicted"]]
    return counts


def _counts_path(evaluation: str) -> str:
    return f"{evaluation.removesuffix('.json')}.parquet"


def _table(counts: Counts, decides: bool) -> pd.DataFrame:
    image, class_id = np.nonzero(counts.sum(1))
    found = counts[image, :, class_id]
    return pd.DataFrame(
        {
            "decides": np.full(len(image), decides),
            "image": image,
            "class_id": class_id,
            "hits": found[:, HITS],
            "truth": found[:, TRUTH],
            "predicted": found[:, PREDICTED],
        }
    )


def _check_range(store: Store, path: str, table: pd.DataFrame, shape: Sequence[int]) -> None:
    images, _, classes = shape
    fits = (
        table["image"].between(0, images - 1)
        & table["class_id"].between(0, classes - 1)
        & table["hits"].between(0, table[["truth", "predicted"]].min(axis=1))
    )
    if not fits.all():
        row = table[~fits].iloc[0].to_dict()
        raise StoreError(
            f"{store.url}/{path} holds {row}, which does not fit {images} images of {classes} "
            "classes; delete it and evaluate the checkpoint again"
        )
