"""Contest: the champion against a challenger, both measured on the challenger's images."""

from __future__ import annotations

from typing import Any

from infra.settings import Settings
from infra.store import MissingError, Store
from tasks.evaluate.evaluate import evaluate_checkpoint
from tasks.evaluate.stored import evaluation_path, read_counts, read_evaluation
from tasks.promote.decision import Decision, compare_counts, other_classes, settle
from tasks.promote.pointer import Entry, entry_of
from tasks.train.checkpoints import read_meta

__all__ = ["contest"]


def contest(
    store: Store, settings: Settings, champion: Entry, challenger: Entry
) -> tuple[Entry, Decision]:
    """Return the champion, as measured on the challenger's set if possible, and the decision.

    The champion is measured on that set if it was not.
    """
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
    margin = settings.promote.margin
    return champion, compare_counts(champion, challenger, (held, offered), classes, margin)


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
