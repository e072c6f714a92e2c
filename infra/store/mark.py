"""The mark of what segmint wrote: nothing without it is ever deleted by `segmint gc`.

.segmint                                     this folder or bucket prefix is a store
{runs,versions,checkpoints}/<name>/.segmint  segmint writes into this folder

A store may share its folder with other programs: `runs/` is TensorBoard's folder too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.store.errors import MissingError

if TYPE_CHECKING:
    from infra.store.store import Store

__all__ = ["MARK", "claim", "forget", "is_marked"]

MARK = ".segmint"
_CONTENT = b'{"made_by": "segmint"}\n'  # never changes, so that older marks stay valid
_KINDS = frozenset({"runs", "versions", "checkpoints"})


def claim(store: Store, path: str) -> None:
    """Mark the store, and the run, version or checkpoint that `path` is in, unless they are marked.

    It comes before their first file, so that the rest of an interrupted write is marked as well.
    Each `Store` looks once.
    """
    claimed = _claimed(store)
    for folder in _folders(path):
        if folder not in claimed:
            try:
                store.place.get(folder + MARK)
            except MissingError:
                store.place.put(folder + MARK, [_CONTENT])
            claimed.add(folder)


def forget(store: Store, path: str) -> None:
    """Look for marks below `path` again, because it is deleted."""
    for folder in [each for each in _claimed(store) if f"{each}{MARK}/".startswith(f"{path}/")]:
        _claimed(store).discard(folder)


def is_marked(store: Store, folder: str = "") -> bool:
    """Return whether segmint wrote into this run, version or checkpoint, or into the store."""
    try:
        return store.read_bytes(f"{folder}/{MARK}".lstrip("/")) == _CONTENT
    except MissingError:
        return False


def _claimed(store: Store) -> set[str]:
    found: set[str] = store.__dict__.setdefault("_claimed", set())
    return found


def _folders(path: str) -> list[str]:
    """Return the folders of a path that get a mark, each "" or with a slash at its end."""
    kind, *names = path.split("/")
    return ["", f"{kind}/{names[0]}/"] if kind in _KINDS and len(names) > 1 else [""]
