"""Pointer: which checkpoint is the champion, what came before it, and the way back.

champions/<number>.json   a log (`infra.store.log`); the last entry is the champion
    checkpoint, version, evaluation
    budget: share of each class in the next night
    weights: of what its prompts say beside the classes (`budget`)
    steering: what led to both, for the report
    before: earlier champions, the last one last
    lost: challengers that did not beat a champion, since one was chosen by hand
    withdrawn: checkpoints that were rolled back

Promotions and rollbacks at the same time happen one after the other: each is decided about the
champion that its entry follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from infra.events import MOVED, emit
from infra.store import MissingError, Store, StoreError, read_version
from infra.store.agreement import back_off
from infra.store.log import append_entry, read_last
from tasks.evaluate.stored import evaluation_path, list_evaluations
from tasks.promote.budget import Budget, budget_of
from tasks.promote.outcomes import read_outcomes
from tasks.schemas import CHAMPIONS, Champion, Measurement, origin_of
from tasks.train.checkpoints import read_meta

__all__ = [
    "Entry",
    "budget_after",
    "entry_of",
    "last_evaluation",
    "move_champion",
    "read_champion",
]

Entry = dict[str, Any]


def read_champion(store: Store) -> Entry | None:
    """Return the entry of the champion, None while there is no champion."""
    champion: Entry | None
    _, champion = read_last(store, CHAMPIONS, Champion)
    return champion


def move_champion(
    store: Store, decide: Callable[[Entry | None], tuple[Entry, str]]
) -> tuple[bool, Entry, str]:
    """Replace the champion's entry by the one that `decide` makes of it, unless they are equal.

    `decide` also returns the reason. It is called again if another process wrote an entry
    meanwhile. Returns whether another checkpoint is the champion now, which also emits an event,
    with the entry and the reason.
    """
    while True:
        number, before = read_last(store, CHAMPIONS, Champion)
        entry, reason = decide(before)
        begun = time.monotonic()
        if entry == before or append_entry(store, CHAMPIONS, number + 1, entry):
            break
        back_off(begun)
    moved = before is None or before["checkpoint"] != entry["checkpoint"]
    if moved:
        told = {"version": entry["version"], "reason": reason}
        emit(MOVED, "champion", entry["checkpoint"], told)
    return moved, entry, reason


def entry_of(store: Store, checkpoint: str, evaluation: str) -> Entry:
    """Return a checkpoint's part of an entry; `evaluation` is the path of its evaluation."""
    return {
        "checkpoint": checkpoint,
        "version": read_meta(store, checkpoint)["version"],
        "evaluation": store.read_json(evaluation, Measurement),
    }


def budget_after(store: Store, evaluation: Mapping[str, Any], version: str) -> Entry:
    """Return the part of an entry that the next run plans by, given the champion's evaluation.

    Keep rates and survey are those of the run that made `version`. IoU and uncertainty come from
    the deciding images, so that the reported figures influence nothing.
    """
    measured = evaluation.get("decision", evaluation)
    try:
        origin = origin_of(read_version(store, version))
    except MissingError:  # deleted by `segmint gc`, with the keep rates
        names = [name for name in measured["iou"] if name != "background"]
        return _parts(budget_of(measured, names, {}))
    return _parts(budget_of(measured, origin.classes, read_outcomes(store, origin.run)))


def _parts(budget: Budget) -> Entry:
    return {"budget": budget.classes, "weights": budget.weights, "steering": budget.rows}


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
