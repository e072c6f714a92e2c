"""Collect: what nobody needs any more leaves the store, under the retention of the settings.

versions/<version>              but for the champion's, pinned ones, the newest, young ones, and one trained on now
checkpoints/<checkpoint>        with its version, but for the champion's and those before it
runs/<run>/<stage>              of a published run, some days after; its plan, figures and report stay
runs, versions without manifest that nothing was written to for long

pins/<version>.json             keeps a version for ever, until it is unpinned
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import NamedTuple

from prefect import task

from infra.blocks import open_store
from infra.settings import RetentionSettings, Settings
from infra.store import Published, Store, list_versions, read_version
from tasks.promote.pointer import read_champion
from tasks.schemas import origin_of

__all__ = ["Garbage", "collect", "delete", "find_garbage", "pin", "pins", "unpin"]

DAY = 86_400.0
TRAINING = DAY  # no training leaves its snapshot untouched that long


class Garbage(NamedTuple):
    """A path in the store that may go, its bytes, and why."""

    path: str
    size: int
    why: str


def find_garbage(store: Store, retention: RetentionSettings, now: float) -> list[Garbage]:
    """Everything that may go at `now` (seconds since 1970); nothing is touched.

    Reads what is told of versions, no samples; lists only what belongs to no version, or goes. What
    was written to lately is not looked through.
    """
    versions, checkpoints = list_versions(store), store.list("checkpoints")
    champion = read_champion(store) or {}
    kept_checkpoints = {champion.get("checkpoint"), *champion.get("before", [])}
    with ThreadPoolExecutor(store.place.readers) as pool:
        training = pool.map(lambda name: _trains(store, name, now), checkpoints)
        needed = {champion.get("version"), *pins(store), *filter(None, training)}
        old = [v for v in versions[: -retention.versions] if v.version not in needed]
        gone = [v.version for v in old if now - _created(v) > retention.days * DAY]
        found = [(f"versions/{name}", "past its retention") for name in gone]
        found += [
            (f"checkpoints/{name}", "its version is past its retention")
            for name in checkpoints
            if name.rpartition("-")[0] in gone and name not in kept_checkpoints
        ]
        done = [
            v for v in versions if _is_whole(v) and now - _created(v) > retention.run_days * DAY
        ]
        found += itertools.chain.from_iterable(
            pool.map(lambda v: _shards(store, v, checkpoints), done)
        )
        sized = pool.map(lambda one: Garbage(one[0], store.usage(one[0]).size, one[1]), found)
        abandoned = pool.map(
            lambda path: _abandoned(store, path, retention, now), _unpublished(store, versions)
        )
        return [*sized, *filter(None, abandoned)]


def _created(version: Published) -> float:
    return datetime.fromisoformat(version.created).timestamp()


def _is_whole(version: Published) -> bool:
    """Whether the version lacks no shard; else its run may still be finished."""
    return not version.meta.get("without")


def _trains(store: Store, checkpoint: str, now: float) -> str | None:
    """The version that this checkpoint, if unfinished, was written from lately."""
    folder = f"checkpoints/{checkpoint}"
    if store.exists(f"{folder}/meta.json") or now - store.usage(folder).modified >= TRAINING:
        return None
    return checkpoint.rpartition("-")[0]


def _shards(
    store: Store, version: Published, checkpoints: Collection[str]
) -> list[tuple[str, str]]:
    """What a published run worked on: a version holds its own samples, so nobody reads these again."""
    origin = origin_of(version)
    folders = [
        f"runs/{origin.run}/{name}" for name in store.list(f"runs/{origin.run}") if "." not in name
    ]
    folds = f"{origin.run}-{origin.identity[:8]}-fold-"
    folders += [f"checkpoints/{name}" for name in checkpoints if name.startswith(folds)]
    return [(folder, f"run {origin.run} is published") for folder in folders]


def _unpublished(store: Store, versions: Collection[Published]) -> Iterator[str]:
    """Runs that published nothing whole, and versions without a manifest."""
    runs, published = (
        {origin_of(v).run for v in versions if _is_whole(v)},
        {v.version for v in versions},
    )
    yield from (f"runs/{name}" for name in store.list("runs") if name not in runs)
    for name in store.list("versions"):
        if name not in published and not store.exists(
            f"versions/{name}/manifest.json"
        ):  # a damaged one is kept
            yield f"versions/{name}"


def _abandoned(store: Store, path: str, retention: RetentionSettings, now: float) -> Garbage | None:
    """Garbage if nothing was written to it for long.

    Files come first: a run's settings and plan tell of most.
    """
    size, newest = 0, 0.0
    for name in sorted(store.list(path), key=lambda name: "." not in name) or [""]:
        found = store.usage(f"{path}/{name}")
        size, newest = size + found.size, max(newest, found.modified)
        if now - newest <= retention.abandoned_days * DAY:
            return None
    return Garbage(path, size, f"never published, untouched for {(now - newest) / DAY:.0f} days")


def delete(store: Store, garbage: Garbage) -> None:
    """Remove it.

    A version loses its manifest first, so that a reader sees it whole or not at all.
    """
    if garbage.path.startswith("versions/"):
        store.delete(f"{garbage.path}/manifest.json")
    store.delete(garbage.path)


def pins(store: Store) -> list[str]:
    """Names of the versions that are kept for ever."""
    return [name.removesuffix(".json") for name in store.list("pins")]


def pin(store: Store, version: str, why: str) -> None:
    """Keep a version for ever. Raises `MissingError` if it is not published."""
    read_version(store, version)
    store.write_json(f"pins/{version}.json", {"why": why})


def unpin(store: Store, version: str) -> None:
    """Leave a version to the retention again; one that is not pinned is fine."""
    store.delete(f"pins/{version}.json")


@task(name="collect")
def collect(settings: Settings, dry_run: bool = False) -> list[Garbage]:
    """Delete what the settings' retention lets go, and return it; with `dry_run` return it only."""
    store = open_store(settings.store)
    found = find_garbage(store, settings.retention, time.time())
    if not dry_run:
        for garbage in found:
            delete(store, garbage)
    return found
