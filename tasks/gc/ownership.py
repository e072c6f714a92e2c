"""Ownership: what in a run, version or checkpoint segmint wrote itself, and so may delete.

A store may share its folder with other programs, and people put files beside a run's own. Segmint's
are the folders with its mark (`infra.store.mark`), and in these the names that it gives. What a
link leads to is never its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from infra.store import Store, StoreError, read_version
from infra.store.mark import MARK, is_marked
from infra.store.store import NAME
from tasks.run.layout import STAGES

__all__ = ["Foreign", "delete_own", "own_names", "sort_out", "why_foreign"]

# Patterns of names; below each, the patterns of what is in it. None: everything in it is ours.
_Names = Mapping[str, Any]
_SHARDS: _Names = {r"\d{5,}(-\w+)?\.(json|parquet|zarr)": None}
_KINDS: Mapping[str, _Names] = {
    "runs": {
        r"(settings|ranking|training|evaluation|survey|budget)\.json": None,
        r"plan\.parquet|report\.html|affinity\.safetensors": None,
        "|".join(each.name for each in STAGES if each.in_run): _SHARDS,
    },
    "versions": {
        r"manifest\.json|(card|vocabulary)-[0-9a-f]{8}\.(md|json)": None,
        "data": _SHARDS,
    },
    "checkpoints": {
        r"(meta|config|versions)\.json|(weights|snapshot)\.safetensors": None,
        "evaluations": {r"[0-9a-f]{16}\.(json|parquet)": None},
    },
    "comparisons": {r"(pace|comparison)\.json|comparison\.html": None},
}


class Foreign(NamedTuple):
    """A path that stays because segmint did not write it, or cannot tell or delete it."""

    path: str
    why: str


def own_names(store: Store, kind: str) -> tuple[list[str], list[Foreign]]:
    """Return what is in "runs" or another kind of folder: names of folders, and the rest."""
    names = store.list(kind)
    proper = [name for name in names if re.fullmatch(NAME, name)]
    rest = [name for name in names if name not in set(proper)]
    return proper, [Foreign(f"{kind}/{name}", "its name is not one of segmint's") for name in rest]


def why_foreign(store: Store, path: str) -> str | None:
    """Return why a folder is not segmint's at all; None if it is, up to foreign files in it."""
    kind, name, *_ = path.split("/")
    if store.is_link(path):
        return "it is a link"
    if not is_marked(store.place, f"{kind}/{name}"):
        return f"segmint did not make it: it has no {MARK}"
    return None


def sort_out(store: Store, path: str) -> tuple[list[str], list[Foreign]]:
    """Return the paths in a folder of a run, version or checkpoint that are segmint's, and others.

    `path` may also be a folder in it, such as that of a stage. Folders that are wholly segmint's
    are one path. Nothing is read but the mark, and the manifest of a version with unusual names.
    """
    if why := why_foreign(store, path):
        return [], [Foreign(path, why)]
    kind, name, *inner = path.split("/")
    names: Any = {**_KINDS[kind], re.escape(MARK): None}
    for each in inner:
        names = _below(names, each)
    own, foreign = _sorted(store, path, names)
    if kind == "versions" and foreign:
        listed = _listed(store, name)
        own += [each.path for each in foreign if _shard(each.path) in listed]
        foreign = [each for each in foreign if _shard(each.path) not in listed]
    if not foreign:
        depth = path.count("/") + 2
        own = sorted({"/".join(each.split("/")[:depth]) for each in own})
    return own, foreign


def delete_own(store: Store, path: str) -> None:
    """Delete what in a folder is segmint's, and the folder if nothing else is in it.

    The manifest of a version goes first, so that no reader sees a part of it, and the mark last, so
    that what a kill leaves is still known as segmint's.
    """
    own, foreign = sort_out(store, path)
    manifest = f"{path}/manifest.json"
    mark = f"{path}/{MARK}"
    if not foreign and mark not in own:  # the folder of a stage
        store.delete(path)
        return
    for each in sorted(set(own) - {mark}, key=lambda each: each != manifest):
        store.delete(each)
    if foreign:
        store.delete(mark)
    elif set(store.list(path)) <= {MARK}:  # nothing was added meanwhile
        store.delete(path)


def _sorted(store: Store, folder: str, names: _Names) -> tuple[list[str], list[Foreign]]:
    own: list[str] = []
    foreign: list[Foreign] = []
    for name in store.list(folder):
        path = f"{folder}/{name}"
        inner = _below(names, name)
        if inner is Foreign:
            foreign.append(Foreign(path, "segmint gives no such name"))
        elif inner is None:
            own.append(path)
        elif store.is_link(path):
            foreign.append(Foreign(path, "it is a link"))
        else:
            found, others = _sorted(store, path, inner)
            own += found if others else [path]
            foreign += others
    return own, foreign


def _below(names: _Names, name: str) -> Any:
    """Return the names below `name`, None if all are ours, `Foreign` if it is not ours itself."""
    found = (inner for pattern, inner in names.items() if re.fullmatch(pattern, name))
    return next(found, Foreign)


def _shard(path: str) -> str:
    """Return the name in a manifest of a shard's file, or of a loose file."""
    name = path.rpartition("/")[2]
    return re.sub(r"\.(json|parquet|zarr)$", "", name) if "/data/" in path else name


def _listed(store: Store, version: str) -> set[str]:
    """Return the names in a version's manifest; none if it has no readable one."""
    try:
        manifest = read_version(store, version)
    except StoreError:
        return set()
    return {*manifest.shards, *manifest.files}
