"""Checkpoints: every trained network of a store, with its mIoU on each set."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from infra.parsing import checked
from infra.store import Store, StoreError
from segmint.inventory.faults import Faults
from tasks.evaluate.stored import list_evaluations
from tasks.promote.pointer import read_champion
from tasks.schemas import Evaluated, Meta, Trained
from tasks.train.checkpoints import checkpoint_folder, digests_of

__all__ = ["CheckpointSummary", "list_checkpoints"]

_FOLD = re.compile(r"-[0-9a-f]{8}-fold-\d+$")  # name of a network of noise learning


@dataclass(frozen=True)
class CheckpointSummary:
    """A checkpoint.

    `state` is "finished", "unfinished" (training, or stopped), "fold" (a network of noise learning)
    or "damaged". `versions` are all that it was trained on, `version` is the one that the training
    was given. `evaluations` have `set`, `images` and `miou`.
    """

    name: str
    version: str | None
    versions: list[str]
    model: str | None
    state: str
    champion: bool
    evaluations: list[dict[str, Any]]
    damaged: list[str]


class _Recipe(BaseModel):
    config: str | None = None


class _WithRecipe(BaseModel):
    recipe: _Recipe = _Recipe()


def list_checkpoints(store: Store) -> tuple[list[CheckpointSummary], list[str]]:
    """Return all checkpoints of a store, by name, and what else could not be read."""
    faults = Faults()
    champion = (faults.attempt(read_champion, store) or {}).get("checkpoint")
    with ThreadPoolExecutor(store.place.readers) as pool:
        found = pool.map(
            lambda name: _checkpoint(store, name, name == champion), store.list("checkpoints")
        )
        return list(found), faults.found


def _checkpoint(store: Store, name: str, champion: bool) -> CheckpointSummary:
    faults = Faults()
    meta = faults.attempt(_read_meta, store, name)
    if meta is None or faults.found:
        state = "damaged" if faults.found else "unfinished"
    else:
        state = "fold" if _FOLD.search(name) else "finished"
    meta = meta or {}
    return CheckpointSummary(
        name=name,
        version=meta.get("version"),
        versions=list(digests_of(meta)) if state == "finished" else [],
        model=meta.get("recipe", {}).get("config"),
        state=state,
        champion=champion,
        evaluations=_evaluations(store, name, faults) if state == "finished" else [],
        damaged=faults.found,
    )


def _read_meta(store: Store, name: str) -> dict[str, Any] | None:
    """Return the meta.json of a checkpoint, None if it is unfinished."""
    path = f"{checkpoint_folder(name)}/meta.json"
    if not store.exists(path):
        return None
    meta: dict[str, Any] = store.read_json(path, Trained if _FOLD.search(name) else Meta)
    try:
        checked(meta, _WithRecipe)
    except ValueError as error:
        raise StoreError(f"{store.url}/{path}: {error}; delete it and train again") from error
    return meta


def _evaluations(store: Store, name: str, faults: Faults) -> list[dict[str, Any]]:
    found = []
    for path in faults.attempt(list_evaluations, store, name) or []:
        evaluation = faults.attempt(store.read_json, path, Evaluated)
        if evaluation:
            found.append({key: evaluation.get(key) for key in ("set", "images", "miou")})
    return found
