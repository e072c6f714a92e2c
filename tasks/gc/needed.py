"""Needed: what a champion was trained on, what is trained on now, what unfinished runs draw."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from infra.settings import FLOW
from infra.store import Store, StoreError
from tasks.plan.rows import stored_record
from tasks.schemas import Sources

__all__ = ["DAY", "drawn_by", "versions_in_training", "versions_of"]

DAY = 86_400.0
TRAINING = DAY  # a training writes its snapshot every minute, so a day without one ends it


def versions_of(store: Store, champion: Mapping[str, Any]) -> Collection[str]:
    """Return all versions that a champion, an entry of the log, was trained on; none for {}.

    If its checkpoint was deleted, only the version in the entry is known. Raises `StoreError` if
    its meta.json is damaged: nothing may be deleted while it is unknown what the champion needs.
    """
    path = f"checkpoints/{champion.get('checkpoint')}/meta.json"
    found = {champion["version"]} if champion else set()
    return found | _listed(store, path)


def versions_in_training(store: Store, checkpoint: str, now: float) -> Collection[str]:
    """Return the versions that an unfinished checkpoint is being trained on; none for others."""
    folder = f"checkpoints/{checkpoint}"
    found = {checkpoint.rpartition("-")[0]}
    try:
        if store.exists(f"{folder}/meta.json") or now - store.usage(folder).modified >= TRAINING:
            return ()
        return found | _listed(store, f"{folder}/versions.json")
    except StoreError:
        store.list()  # raises if the whole store cannot be reached
        return found  # it may be a training


def drawn_by(store: Store, run: str) -> Collection[str]:
    """Return the names of the flow and of the version of label maps that a run draws, if any."""
    try:
        record = stored_record(store, run)
    except StoreError:
        store.list()  # raises if the whole store cannot be reached
        return ()  # no run resumes from a damaged record
    generator = record["settings"]["generator"] if record else {}
    path, labels = (str(generator.get(name) or "") for name in ("path", "labels"))
    return {path.removeprefix(FLOW), labels} if path.startswith(FLOW) else ()


def _listed(store: Store, path: str) -> set[str]:
    """Return the versions that a checkpoint's file lists; none without one."""
    listed = store.read_json(path, Sources).get("versions", []) if store.exists(path) else []
    return {each["name"] for each in listed}
