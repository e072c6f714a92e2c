"""Garbage collection: deletes what the retention settings no longer keep.

| path in the store        | is deleted                     | unless                          |
|--------------------------|--------------------------------|---------------------------------|
| versions/<version>       | after `days`                   | it is among the newest, pinned, |
|                          |                                | one of the champion's, or it is |
|                          |                                | trained on now, or an           |
|                          |                                | unfinished run draws its labels |
| checkpoints/<checkpoint> | with its version               | it is or was the champion, or   |
|                          |                                | an unfinished run draws with it |
| runs/<run>/<stage>       | `run_days` after publication   |                                 |
| runs/<run> and versions  | `abandoned_days` after a write | they are published              |
| comparisons/<comparison> | with one of its checkpoints    | it is unfinished: as a run      |

An earlier champion can be rolled back to without the versions that it was trained on. These go:
with `train.versions`, each promotion would otherwise keep several for ever.

pins/<version>.json keeps a version until it is unpinned. What segmint did not write stays and is
reported (`tasks.gc.ownership`), and so is what cannot be read or deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import chain
from typing import NamedTuple

from prefect import task

from infra.blocks import open_store
from infra.settings import RetentionSettings, Settings
from infra.store import Published, Store, StoreError, list_versions
from infra.store.mark import MARK, is_marked
from tasks.gc.comparisons import bereft
from tasks.gc.needed import DAY, drawn_by, versions_in_training, versions_of
from tasks.gc.ownership import Foreign, delete_own, own_names, sort_out, why_foreign
from tasks.gc.pins import pins
from tasks.promote.pointer import read_champion
from tasks.run.layout import STAGES, version_name
from tasks.schemas import Origin, origin_of

__all__ = ["Found", "Garbage", "collect", "find_garbage"]


class Garbage(NamedTuple):
    """A path in the store that can be deleted, its size in bytes, and the reason."""

    path: str
    size: int
    why: str


class Found(NamedTuple):
    """What can be deleted, and what stays because it is not segmint's or there was an error."""

    garbage: list[Garbage]
    left: list[Foreign]


def find_garbage(store: Store, retention: RetentionSettings, now: float) -> Found:
    """Return everything that can be deleted at `now` (seconds since 1970), and delete nothing.

    It reads manifests but no samples, and lists only folders without a version, and those that can
    be deleted. A folder is not searched further once a recent file is found. Raises `StoreError`
    for a folder or bucket that is no store.
    """
    if not is_marked(store.place):
        if not store.list():
            return Found([], [])
        raise StoreError(
            f"{store.url} has no {MARK}, so it is no store of segmint and nothing in it is "
            "deleted; correct store.url (a store gets its mark when it is first written to)"
        )
    versions = list_versions(store)
    checkpoints, left = own_names(store, "checkpoints")
    unpublished, others = _unpublished(store, versions)
    comparisons, unnamed = own_names(store, "comparisons")
    left += unnamed
    with ThreadPoolExecutor(store.place.readers) as pool:
        unfinished = [
            path.removeprefix("runs/") for path in unpublished if path.startswith("runs/")
        ]
        drawn = set(chain.from_iterable(pool.map(partial(drawn_by, store), unfinished)))
        due = _due(store, retention, now, versions, checkpoints, drawn)
        judged = [pool.submit(_judged, store, path, partial(str, why)) for path, why in due]
        for path in unpublished:
            abandoned = partial(_abandoned, store, path, retention, now)
            judged.append(pool.submit(_judged, store, path, abandoned))
        before = now - retention.abandoned_days * DAY
        for name in comparisons:
            path = f"comparisons/{name}"
            judged.append(pool.submit(_judged, store, path, partial(bereft, store, path, before)))
        found = [each.result() for each in judged]
    garbage = [one for each in found for one in each.garbage]
    return Found(garbage, [*left, *others, *(one for each in found for one in each.left)])


def _due(
    store: Store,
    retention: RetentionSettings,
    now: float,
    versions: list[Published],
    checkpoints: Collection[str],
    drawn: Collection[str],
) -> Iterator[tuple[str, str]]:
    """Yield path and reason of what published versions no longer need, and of old versions.

    `drawn` are the versions and checkpoints that unfinished runs draw.
    """
    champion = read_champion(store) or {}
    with ThreadPoolExecutor(store.place.readers) as pool:
        trained = pool.map(lambda name: versions_in_training(store, name, now), checkpoints)
        listed = chain.from_iterable(trained)
        needed = {*versions_of(store, champion), *pins(store), *listed, *drawn}
        expired = [
            v.version
            for v in versions[: -retention.versions]
            if v.version not in needed and _age(v, now) > retention.days * DAY
        ]
        kept = {champion.get("checkpoint"), *champion.get("before", []), *drawn}
        yield from _with_checkpoints(kept, expired, checkpoints)
        done = [v for v in versions if _is_whole(v) and _age(v, now) > retention.run_days * DAY]
        for folders in pool.map(lambda v: _working_folders(store, v, checkpoints), done):
            yield from folders


def _judged(store: Store, path: str, reason: Callable[[], str | None]) -> Found:
    """Return a folder as garbage, as far as it is segmint's, if there is a `reason` to delete it.

    An error about this folder alone is reported, so that it does not stop the collection.
    """
    try:
        if foreign := why_foreign(store, path):
            return Found([], [Foreign(path, foreign)])
        if not (why := reason()):
            return Found([], [])
        own, left = sort_out(store, path)
        size = sum(store.usage(each).size for each in (own if left else [path]))
    except StoreError as error:
        return Found([], [_failed(store, path, error)])
    return Found([Garbage(path, size, why)] if own else [], left)


def _failed(store: Store, path: str, error: StoreError) -> Foreign:
    """Return a path as left. Raises `StoreError` if the whole store cannot be reached."""
    store.list()
    return Foreign(path, str(error))


def _age(version: Published, now: float) -> float:
    """Return the seconds since a version was published."""
    return now - datetime.fromisoformat(version.created).timestamp()


def _is_whole(version: Published) -> bool:
    """Return whether the version lacks no shard; else its run may still be finished."""
    return not version.meta.get("without")


def _origin(version: Published) -> Origin | None:
    """Return where a version comes from; None for one that no run of segmint published."""
    try:
        return origin_of(version)
    except StoreError:
        return None


def _with_checkpoints(
    kept: Collection[str | None], versions: Collection[str], checkpoints: Collection[str]
) -> list[tuple[str, str]]:
    """Return path and reason of these versions, and of their checkpoints but for those `kept`."""
    found = [(f"versions/{name}", "past its retention") for name in versions]
    return found + [
        (f"checkpoints/{name}", "its version is past its retention")
        for name in checkpoints
        if name.rpartition("-")[0] in versions and name not in kept
    ]


def _working_folders(
    store: Store, version: Published, checkpoints: Collection[str]
) -> list[tuple[str, str]]:
    """Return the shards and noise-learning networks of a published run, which nothing reads again.

    A version has its own copy of the samples.
    """
    origin = _origin(version)
    if origin is None:
        return []
    folder = f"runs/{origin.run}"
    present = set(store.list(folder))
    folders = [f"{folder}/{each.name}" for each in STAGES if each.in_run and each.name in present]
    folds = f"{version_name(origin.run, origin.identity)}-fold-"
    folders += [f"checkpoints/{name}" for name in checkpoints if name.startswith(folds)]
    return [(path, f"run {origin.run} is published") for path in folders]


def _unpublished(store: Store, versions: Collection[Published]) -> tuple[list[str], list[Foreign]]:
    """Return runs without a complete version and versions without a manifest; and other names."""
    whole = [origin for v in versions if _is_whole(v) and (origin := _origin(v))]
    runs, left = own_names(store, "runs")
    found = [f"runs/{name}" for name in runs if name not in {origin.run for origin in whole}]
    names, others = own_names(store, "versions")
    published = {v.version for v in versions}
    found += [
        f"versions/{name}"
        for name in names  # a version whose manifest is damaged is kept
        if name not in published and not store.exists(f"versions/{name}/manifest.json")
    ]
    return found, left + others


def _abandoned(store: Store, path: str, retention: RetentionSettings, now: float) -> str | None:
    """Return since when nothing in a folder was written, if that is `abandoned_days` or more.

    Its files come first, because a run's settings and plan decide most cases.
    """
    newest = 0.0
    for name in sorted(store.list(path), key=lambda name: "." not in name) or [""]:
        newest = max(newest, store.usage(f"{path}/{name}").modified)
        if now - newest <= retention.abandoned_days * DAY:
            return None
    return f"never published, untouched for {(now - newest) / DAY:.0f} days"


@task(name="collect", task_run_name="collect")
def collect(settings: Settings, dry_run: bool = False) -> Found:
    """Delete what the retention no longer keeps and return it; with `dry_run` only return it."""
    store = open_store(settings.store)
    found = find_garbage(store, settings.retention, time.time())
    if dry_run:
        return found
    deleted = []
    for garbage in found.garbage:
        try:
            delete_own(store, garbage.path)
        except StoreError as error:
            found.left.append(_failed(store, garbage.path, error))
        else:
            deleted.append(garbage)
    return Found(deleted, found.left)
