"""Comparisons: when nothing is left to compare."""

from __future__ import annotations

from infra.store import Store
from tasks.schemas import Comparison

__all__ = ["bereft"]


def bereft(store: Store, path: str, before: float) -> str | None:
    """Return why the comparison in folder `path` can go: a checkpoint is gone; None if all exist.

    An unfinished one can go if nothing was written since `before`, in seconds since 1970. Raises
    `StoreError` for a comparison that cannot be read.
    """
    if not store.exists(f"{path}/comparison.json"):
        return "never finished" if store.usage(path).modified < before else None
    found = store.read_json(f"{path}/comparison.json", Comparison)
    for each in found["contenders"]:
        if not store.exists(f"checkpoints/{each['checkpoint']}/meta.json"):
            return f"checkpoint {each['checkpoint']} is gone"
    return None
