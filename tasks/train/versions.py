"""Versions: the published versions that a training takes, and their labels under one list of names.

The version that a training is given is always one of them; the others were published before it. So
a retraining of that version takes the same ones, whatever was published since.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infra.store import Manifest, Store, StoreError, list_versions, read_version
from infra.store.manifest import manifest_path
from infra.store.publications import published_sum
from infra.store.seal import FileSum
from infra.store.store import NAME
from models.metrics import IGNORE
from tasks.schemas import origin_of

__all__ = ["Chosen", "chosen_versions", "label_table"]

Chosen = Literal["newest", "all"] | int | tuple[str, ...]


def chosen_versions(store: Store, version: str, chosen: Chosen) -> tuple[Manifest, ...]:
    """Return the manifests that a training of `version` takes: its own, then the newest first.

    `chosen` is "newest" for this version alone, N for it and the N - 1 published last before it
    (fewer while there are fewer), "all" for it and all before it, or the names of those that come
    along. For N and "all", versions that share no class with it do not count.

    Raises `MissingError` for a version that is not published, and `StoreError` for one whose
    manifest is damaged or is not the one that was published, or that is named and was published
    later or shares no class with it.
    """
    given = read_version(store, version)
    if chosen in ("newest", 1):
        return (given,)
    if isinstance(chosen, tuple):
        named = [read_version(store, name) for name in dict.fromkeys(chosen) if name != version]
        for each in named:
            _check_named(given, each)
        others = sorted(named, key=lambda each: each.number, reverse=True)
    else:
        names = _before(store, given)
        most = len(names) if chosen == "all" else int(chosen) - 1
        others = [read_version(store, name) for name in names[:most]]
    for each in (given, *others):
        _check_published(store, each)
    return (given, *others)


def _check_named(given: Manifest, named: Manifest) -> None:
    if named.number > given.number:
        raise StoreError(
            f"train.versions names {named.version!r}, which was published after {given.version!r}; "
            f"train on {named.version!r}, or leave it out"
        )
    if not _shares_class(given, named):
        raise StoreError(
            f"train.versions names {named.version!r}, which has no class in common with "
            f"{given.version!r}: {_names(named)} and {_names(given)}; leave it out"
        )


def _before(store: Store, given: Manifest) -> list[str]:
    """Return the versions before `given` that share a class with it, the newest first.

    Raises `StoreError` if one in the store is damaged, since the listing leaves it out.
    """
    listed = list_versions(store)
    known = {each.version for each in listed}
    for name in store.list("versions"):
        if name not in known and re.fullmatch(NAME, name) and store.exists(manifest_path(name)):
            read_version(store, name)
    earlier = [each for each in reversed(listed) if each.number < given.number]
    wanted = set(origin_of(given).classes)
    return [each.version for each in earlier if wanted & set(origin_of(each).classes)]


def _check_published(store: Store, manifest: Manifest) -> None:
    """Raise `StoreError` for a manifest other than the one that was agreed on under its number."""
    agreed = published_sum(store, manifest)
    if agreed not in (None, FileSum.of(manifest.to_bytes()).sha256):
        raise StoreError(
            f"{store.url}/{manifest_path(manifest.version)} is not the manifest that was "
            "published; restore it from a copy, or leave this version out of train.versions"
        )


def _shares_class(one: Manifest, other: Manifest) -> bool:
    return bool(origin_of(one).classes.keys() & origin_of(other).classes.keys())


def _names(manifest: Manifest) -> str:
    classes = origin_of(manifest).classes
    return ", ".join(sorted(classes, key=lambda name: classes[name]))


def label_table(ids: Mapping[str, int], wanted: Mapping[str, int]) -> NDArray[np.uint8]:
    """Return the label id under `wanted` of each label id 0..255 under `ids`, (256,) uint8.

    Both give the id of each class name, and classes are matched by name.

    - A class that `wanted` lacks becomes 255, not background: a vocabulary that dropped "van" may
      mean such pixels to be "car" now, so nobody knows their label.
    - If `ids` lacks a class of `wanted`, the background becomes 255 as well. Objects of that class
      were never labelled in such a version, so its background hides them, and a training would
      learn to miss them. Its objects are right and are learned from.
    """
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    for name in ids.keys() & wanted.keys():
        table[ids[name]] = wanted[name]
    if wanted.keys() <= ids.keys():
        table[0] = 0
    return table
