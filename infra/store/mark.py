"""The mark of what segmint wrote: nothing without it is ever deleted by `segmint gc`.

.segmint  this folder or bucket prefix is a store
{runs,versions,checkpoints,comparisons}/<name>/.segmint  segmint writes into this folder

A store may share its folder with other programs: `runs/` is TensorBoard's folder too.
"""

from __future__ import annotations

from infra.store.errors import MissingError
from infra.store.place import Place

__all__ = ["MARK", "claim", "forget", "is_marked"]

MARK = ".segmint"
_CONTENT = b'{"made_by": "segmint"}\n'  # never changes, so that older marks stay valid
_KINDS = frozenset({"runs", "versions", "checkpoints", "comparisons"})


def claim(place: Place, path: str, claimed: set[str]) -> None:
    """Mark the store, and the run, version or checkpoint that `path` is in, unless they are marked.

    It comes before their first file, so that the rest of an interrupted write is marked as well.
    Folders in `claimed` are marked already; others are added to it.
    """
    for folder in _folders(path):
        if folder not in claimed:
            try:
                place.get(folder + MARK)
            except MissingError:
                place.put(folder + MARK, [_CONTENT])
            claimed.add(folder)


def forget(path: str, claimed: set[str]) -> None:
    """Take what is marked below `path` out of `claimed`, because it is deleted."""
    claimed -= {folder for folder in claimed if f"{folder}{MARK}/".startswith(f"{path}/")}


def is_marked(place: Place, folder: str = "") -> bool:
    """Return whether segmint wrote into this run, version or checkpoint, or into the store."""
    try:
        return place.get(f"{folder}/{MARK}".lstrip("/")) == _CONTENT
    except MissingError:
        return False


def _folders(path: str) -> list[str]:
    """Return the folders of a path that get a mark, each "" or with a slash at its end."""
    kind, *names = path.split("/")
    return ["", f"{kind}/{names[0]}/"] if kind in _KINDS and len(names) > 1 else [""]
