"""Promote: the better of champion and challenger, and the next night's budget; and the way back.

Doing it again with the same checkpoint changes nothing. `pointer` describes champion.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task

from infra.blocks import open_store
from infra.events import REGRESSED, emit
from infra.settings import Settings
from infra.store import MissingError, Store, StoreError
from tasks.evaluate.evaluate import evaluate_checkpoint
from tasks.evaluate.stored import evaluation_path, read_counts, read_evaluation
from tasks.promote.decision import Decision, compare_counts, other_classes, settle
from tasks.promote.pointer import (
    CHAMPION,
    budget_after,
    emit_moved,
    entry_of,
    last_evaluation,
    read_champion,
)
from tasks.train.checkpoints import read_meta

__all__ = ["champion_of", "promote", "roll_back", "watch_champion"]

Entry = dict[str, Any]


@task(name="promote", task_run_name="promote {checkpoint}")
def promote(settings: Settings, checkpoint: str, fingerprint: str) -> dict[str, Any]:
    """Let a checkpoint, as evaluated on the set `fingerprint`, challenge the champion.

    The champion is measured on that set if it was not. The budget comes from the IoU of the
    champion and the keep rates of the run that made the challenger's version.

    Returns champion.json with `moved` and `reason`, and two entries of `checkpoint`, `version` and
    `evaluation`: `trained`, the checkpoint that was handed in (as `challenger` too), and
    `champion`, the one that is champion now.
    """
    store = open_store(settings.store)
    challenger = entry_of(store, checkpoint, evaluation_path(checkpoint, fingerprint))
    before = read_champion(store)
    if before is None:
        decision = Decision(True, "there was no champion")
        standing = challenger
    else:
        champion, decision = _contest(store, settings, before, challenger)
        standing = _succeeding(store, challenger, champion) if decision.moved else champion
    budget = budget_after(store, standing["evaluation"], challenger["version"])
    standing = {**standing, "budget": budget}
    if standing != before:
        store.write_json(CHAMPION, standing)
    if decision.moved:
        emit_moved(standing, decision.reason)
    return {
        **standing,
        "moved": decision.moved,
        "reason": decision.reason,
        "challenger": challenger,
        "trained": challenger,
        "champion": {name: standing[name] for name in challenger},
    }


def _contest(
    store: Store, settings: Settings, champion: Entry, challenger: Entry
) -> tuple[Entry, Decision]:
    """Return the champion, as measured on the challenger's set if possible, and the decision."""
    if decision := settle(champion, challenger):
        return _on_same_set(store, champion, challenger), decision
    try:
        meta = read_meta(store, champion["checkpoint"])
    except MissingError:
        return champion, Decision(True, f"champion {champion['checkpoint']} was deleted")
    classes = read_meta(store, challenger["checkpoint"])["classes"]
    if meta["classes"] != classes:
        differing = sorted(set(meta["classes"]) ^ set(classes))
        return champion, other_classes(champion, challenger, differing)
    champion = {
        **champion,
        "version": meta["version"],
        "evaluation": _measured(store, settings, champion["checkpoint"], challenger),
    }
    held, offered = (
        read_counts(store, each["checkpoint"], each["evaluation"])
        for each in (champion, challenger)
    )
    return champion, compare_counts(champion, challenger, (held, offered), classes)


def _measured(store: Store, settings: Settings, name: str, challenger: Entry) -> dict[str, Any]:
    """Return the evaluation of checkpoint `name` on the challenger's set, measured if need be."""
    fingerprint = challenger["evaluation"]["fingerprint"]
    found = read_evaluation(store, name, fingerprint)
    return evaluate_checkpoint(store, settings, name) if found is None else found


def _on_same_set(store: Store, champion: Entry, challenger: Entry) -> Entry:
    """Return the champion with its evaluation on the challenger's set, if there is one."""
    path = evaluation_path(champion["checkpoint"], challenger["evaluation"]["fingerprint"])
    if not store.exists(path):
        return champion
    return {**champion, **entry_of(store, champion["checkpoint"], path)}


def _succeeding(store: Store, challenger: Entry, champion: Entry) -> Entry:
    """Return the challenger's entry as champion, with those before it that still exist."""
    before = [name for name in champion.get("before", []) if name != challenger["checkpoint"]]
    if store.exists(f"checkpoints/{champion['checkpoint']}/meta.json"):
        before.append(champion["checkpoint"])
    return {**challenger, "before": before, "withdrawn": champion.get("withdrawn", [])}


def champion_of(settings: Settings) -> str:
    """Return the name of the champion. Raises `StoreError` while there is none."""
    store = open_store(settings.store)
    champion = read_champion(store)
    if champion is None:
        raise StoreError(
            f"{store.url} has no champion; name a checkpoint, or let `segmint train` make one"
        )
    return str(champion["checkpoint"])


@task(name="watch-champion", task_run_name="watch-champion {checkpoint}")
def watch_champion(settings: Settings, checkpoint: str, found: Mapping[str, Any]) -> bool:
    """Emit an event if an evaluation says that the champion got worse; return whether it does.

    Worse means that its mIoU is lower than when it became champion, by more than
    `alarm.regression`, on a set of the same name. Only images that were added or changed can
    lower it, because the same images always give the same figure.
    """
    champion = read_champion(open_store(settings.store))
    if champion is None or champion["checkpoint"] != checkpoint:
        return False
    if champion["evaluation"]["set"] != found["set"]:
        return False
    lost = champion["evaluation"]["miou"] - found["miou"]
    if lost <= settings.alarm.regression:
        return False
    payload = {"miou": found["miou"], "lost": lost, "set": found["set"]}
    emit(REGRESSED, "champion", checkpoint, payload)
    return True


@task(name="roll-back", task_run_name="roll-back")
def roll_back(settings: Settings, to: str | None = None) -> dict[str, Any]:
    """Make an earlier checkpoint the champion again and return champion.json.

    `to` None stands for the champion before this one. The checkpoint that was champion is
    withdrawn: it becomes champion again only if `roll_back` names it. Raises `StoreError` if there
    is nothing to go back to, `MissingError` for a checkpoint that is not in the store.
    """
    store = open_store(settings.store)
    champion = read_champion(store)
    before: list[str] = champion.get("before", []) if champion else []
    if champion is None or not (to or before):
        raise StoreError(
            f"{store.url} has no earlier champion; name a checkpoint, one of `checkpoints/`"
        )
    name = to or before[-1]
    if name == champion["checkpoint"]:
        return champion
    path = last_evaluation(store, name, champion["evaluation"]["fingerprint"])
    entry = entry_of(store, name, path)
    withdrawn = [each for each in champion.get("withdrawn", []) if each != name]
    entry |= {
        "before": before[: before.index(name)] if name in before else before,
        "withdrawn": [*withdrawn, champion["checkpoint"]],
        "budget": budget_after(store, entry["evaluation"], entry["version"]),
    }
    store.write_json(CHAMPION, entry)
    emit_moved(entry, f"{champion['checkpoint']} was rolled back")
    return entry
