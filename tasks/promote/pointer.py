"""Pointer: which checkpoint is the champion, what came before it, and the way back.

champion.json   checkpoint, version, evaluation: the champion
                budget: share of each class in the next night
                before: earlier champions, the last one last
                withdrawn: checkpoints that were rolled back
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.events import MOVED, emit
from infra.store import MissingError, Store, StoreError, read_version
from tasks.evaluate.stored import evaluation_path, list_evaluations
from tasks.promote.budget import keep_rates, next_budget
from tasks.schemas import Champion, Measurement, origin_of
from tasks.train.checkpoints import read_meta

__all__ = [
    "CHAMPION",
    "budget_after",
    "emit_moved",
    "entry_of",
    "last_evaluation",
    "read_champion",
]

CHAMPION = "champion.json"


def read_champion(store: Store) -> dict[str, Any] | None:
    """Return champion.json, None while there is no champion."""
    if not store.exists(CHAMPION):
        return None
    champion: dict[str, Any] = store.read_json(CHAMPION, Champion)
    return champion


def entry_of(store: Store, checkpoint: str, evaluation: str) -> dict[str, Any]:
    """Return a checkpoint's part of champion.json; `evaluation` is the path of its evaluation."""
    return {
        "checkpoint": checkpoint,
        "version": read_meta(store, checkpoint)["version"],
        "evaluation": store.read_json(evaluation, Measurement),
    }


def budget_after(store: Store, evaluation: Mapping[str, Any], version: str) -> dict[str, float]:
    """Return the next night's share of each class, given the champion's evaluation.

    Keep rates are those of the run that made `version`. IoU comes from the deciding images, so that
    the reported figures influence nothing.
    """
    iou = evaluation.get("decision", evaluation)["iou"]
    try:
        origin = origin_of(read_version(store, version))
    except MissingError:  # deleted by `segmint gc`, with the keep rates
        return next_budget(iou, {name: 1.0 for name in iou if name != "background"})
    return next_budget(iou, dict.fromkeys(origin.classes, 1.0) | keep_rates(store, origin.run))


def last_evaluation(store: Store, checkpoint: str, fingerprint: str) -> str:
    """Return the path of a checkpoint's evaluation on the set `fingerprint`, else of another one.

    Raises `MissingError` for a checkpoint that does not exist and `StoreError` for one that was
    never evaluated.
    """
    read_meta(store, checkpoint)
    wanted = evaluation_path(checkpoint, fingerprint)
    if store.exists(wanted):
        return wanted
    if not (found := list_evaluations(store, checkpoint)):
        raise StoreError(
            f"checkpoint {checkpoint!r} was never evaluated; "
            f"`segmint evaluate {checkpoint}` does it"
        )
    return found[-1]


def emit_moved(entry: Mapping[str, Any], reason: str) -> None:
    """Emit the event that another checkpoint is the champion."""
    emit(MOVED, "champion", entry["checkpoint"], {"version": entry["version"], "reason": reason})
