"""Garbage collection: deletes what the retention settings no longer keep.

| path in the store        | is deleted                     | unless                          |
|--------------------------|--------------------------------|---------------------------------|
| versions/<version>       | after `days`                   | it is among the newest, pinned, |
|                          |                                | the champion's or trained on    |
| checkpoints/<checkpoint> | with its version               | it is or was the champion       |
| runs/<run>/<stage>       | `run_days` after publication   |                                 |
| runs/<run> and versions  | `abandoned_days` after a write | they are published              |

pins/<version>.json keeps a version until it is unpinned.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

from prefect import task

from infra.blocks import open_store
from infra.settings import RetentionSettings, Settings
from infra.store import Published, Store, list_versions, read_version
from tasks.promote.pointer import read_champion
from tasks.run.layout import version_name
from tasks.schemas import origin_of

__all__ = ["Garbage", "collect", "delete", "find_garbage", "pin", "pins", "unpin"]

DAY = 86_400.0
TRAINING = DAY  # a training writes its snapshot every minute, so a day without one ends it


class Garbage(NamedTuple):
    """A path in the store that can be deleted, its size in bytes, and the reason."""

    path: str
    size: int
    why: str


def find_garbage(store: Store, retention: RetentionSettings, now: float) -> list[Garbage]:
    """Return everything that can be deleted at `now` (seconds since 1970), and delete nothing.

    It reads manifests but no samples, and lists only folders without a version, and those that can
    be deleted. A folder is not searched further once a recent file is found.
    """
    versions = list_versions(store)
    checkpoints = store.list("checkpoints")
    champion = read_champion(store) or {}
    with ThreadPoolExecutor(store.place.readers) as pool:
        trained = pool.map(lambda name: _trained_version(store, name, now), checkpoints)
        needed = {champion.get("version"), *pins(store), *filter(None, trained)}
        expired = [
            v.version
            for v in versions[: -retention.versions]
            if v.version not in needed and _age(v, now) > retention.days * DAY
        ]
        found = _with_checkpoints(champion, expired, checkpoints)
        done = [v for v in versions if _is_whole(v) and _age(v, now) > retention.run_days * DAY]
        working = pool.map(lambda v: _working_folders(store, v, checkpoints), done)
        found += itertools.chain.from_iterable(working)
        sized = pool.map(lambda one: Garbage(one[0], store.usage(one[0]).size, one[1]), found)
        unpublished = _unpublished(store, versions)
        abandoned = pool.map(lambda path: _abandoned(store, path, retention, now), unpublished)
        return [*sized, *filter(None, abandoned)]


def _age(version: Published, now: float) -> float:
    """Return the seconds since a version was published."""
    return now - datetime.fromisoformat(version.created).timestamp()


def _is_whole(version: Published) -> bool:
    """Return whether the version lacks no shard; else its run may still be finished."""
    return not version.meta.get("without")


def _trained_version(store: Store, checkpoint: str, now: float) -> str | None:
    """Return the version that an unfinished checkpoint is being trained on; None for others."""
    folder = f"checkpoints/{checkpoint}"
    if store.exists(f"{folder}/meta.json") or now - store.usage(folder).modified >= TRAINING:
        return None
    return checkpoint.rpartition("-")[0]


def _with_checkpoints(
    champion: Mapping[str, Any], versions: Collection[str], checkpoints: Collection[str]
) -> list[tuple[str, str]]:
    """Return path and reason of these versions, and of their checkpoints but for champions."""
    kept = {champion.get("checkpoint"), *champion.get("before", [])}
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
    origin = origin_of(version)
    folder = f"runs/{origin.run}"
    folders = [f"{folder}/{name}" for name in store.list(folder) if "." not in name]
    folds = f"{version_name(origin.run, origin.identity)}-fold-"
    folders += [f"checkpoints/{name}" for name in checkpoints if name.startswith(folds)]
    return [(path, f"run {origin.run} is published") for path in folders]


def _unpublished(store: Store, versions: Collection[Published]) -> Iterator[str]:
    """Yield runs without a complete version, and versions without a manifest."""
    runs = {origin_of(v).run for v in versions if _is_whole(v)}
    published = {v.version for v in versions}
    yield from (f"runs/{name}" for name in store.list("runs") if name not in runs)
    for name in store.list("versions"):
        # a version whose manifest is damaged is kept
        if name not in published and not store.exists(f"versions/{name}/manifest.json"):
            yield f"versions/{name}"


def _abandoned(store: Store, path: str, retention: RetentionSettings, now: float) -> Garbage | None:
    """Return a folder as garbage if nothing in it was written for `abandoned_days`.

    Its files come first, because a run's settings and plan decide most cases.
    """
    size = 0
    newest = 0.0
    for name in sorted(store.list(path), key=lambda name: "." not in name) or [""]:
        found = store.usage(f"{path}/{name}")
        size += found.size
        newest = max(newest, found.modified)
        if now - newest <= retention.abandoned_days * DAY:
            return None
    return Garbage(path, size, f"never published, untouched for {(now - newest) / DAY:.0f} days")


def delete(store: Store, garbage: Garbage) -> None:
    """Delete it. A version loses its manifest first, so that no reader sees a part of it."""
    if garbage.path.startswith("versions/"):
        store.delete(f"{garbage.path}/manifest.json")
    store.delete(garbage.path)


def pins(store: Store) -> list[str]:
    """Return the names of the pinned versions."""
    return [name.removesuffix(".json") for name in store.list("pins")]


def pin(store: Store, version: str, why: str) -> None:
    """Keep a version until it is unpinned. Raises `MissingError` if it is not published."""
    read_version(store, version)
    store.write_json(f"pins/{version}.json", {"why": why})


def unpin(store: Store, version: str) -> None:
    """Leave a version to the retention again; nothing happens if it is not pinned."""
    store.delete(f"pins/{version}.json")


@task(name="collect", task_run_name="collect")
def collect(settings: Settings, dry_run: bool = False) -> list[Garbage]:
    """Delete what the retention no longer keeps and return it; with `dry_run` only return it."""
    store = open_store(settings.store)
    found = find_garbage(store, settings.retention, time.time())
    if not dry_run:
        for garbage in found:
            delete(store, garbage)
    return found
