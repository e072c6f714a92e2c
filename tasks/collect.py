"""Collect: what nobody needs any more leaves the store, under the retention of the settings.

versions/<version>              but for the champion's, pinned ones, the newest, young ones, and one trained on now
checkpoints/<checkpoint>        with its version, but for the champion's and those before it
runs/<run>/<stage>              of a published run, some days after; its plan, figures and report stay
runs, versions without manifest that nothing was written to for long

pins/<version>.json             keeps a version for ever, until it is unpinned
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import NamedTuple

from prefect import task

from infra.blocks import open_store
from infra.settings import RetentionSettings, Settings
from infra.store import Manifest, Store, list_versions, read_version
from tasks.promote import read_champion
from tasks.records import origin_of

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

    Reads manifests, not samples; lists only what belongs to no version, or goes.
    """
    manifests = list_versions(store)
    champion = read_champion(store) or {}
    kept_checkpoints = {champion.get("checkpoint"), *champion.get("before", [])}
    needed = {champion.get("version"), *pins(store), *_in_training(store, now)}
    old = [m for m in manifests[: -retention.versions] if m.version not in needed]
    gone = [m.version for m in old if now - _created(m) > retention.days * DAY]
    found = [_sized(store, f"versions/{name}", "past its retention") for name in gone]
    found += _checkpoints(store, gone, kept_checkpoints)
    found += _shards(store, manifests, retention, now)
    return [*found, *_abandoned(store, manifests, retention, now)]


def _created(manifest: Manifest) -> float:
    return datetime.fromisoformat(manifest.created).timestamp()


def _is_whole(manifest: Manifest) -> bool:
    """Whether the version lacks no shard; else its run may still be finished."""
    return not manifest.meta.get("without")


def _sized(store: Store, path: str, why: str) -> Garbage:
    return Garbage(path, store.usage(path).size, why)


def _in_training(store: Store, now: float) -> Iterator[str]:
    """Versions that an unfinished checkpoint was written from lately."""
    for name in store.list("checkpoints"):
        folder = f"checkpoints/{name}"
        if not store.exists(f"{folder}/meta.json") and now - store.usage(folder).modified < TRAINING:
            yield name.rpartition("-")[0]


def _checkpoints(store: Store, versions: Collection[str], kept: Collection[str | None]) -> Iterator[Garbage]:
    for name in store.list("checkpoints"):
        if name.rpartition("-")[0] in versions and name not in kept:
            yield _sized(store, f"checkpoints/{name}", "its version is past its retention")


def _shards(
    store: Store, manifests: Collection[Manifest], retention: RetentionSettings, now: float
) -> Iterator[Garbage]:
    """What published runs worked on: a version holds its own samples, so nobody reads these again."""
    for manifest in filter(_is_whole, manifests):
        origin, age = origin_of(manifest), now - _created(manifest)
        run = origin.run
        if age > retention.run_days * DAY:
            folders = [f"runs/{run}/{name}" for name in store.list(f"runs/{run}") if "." not in name]
            folds = f"{run}-{origin.identity[:8]}-fold-"
            folders += [f"checkpoints/{name}" for name in store.list("checkpoints") if name.startswith(folds)]
            yield from (_sized(store, folder, f"run {run} is published") for folder in folders)


def _abandoned(
    store: Store, manifests: Collection[Manifest], retention: RetentionSettings, now: float
) -> Iterator[Garbage]:
    """Runs that published nothing whole, and versions without a manifest, to which nothing was written for long."""
    runs, published = {origin_of(m).run for m in manifests if _is_whole(m)}, {m.version for m in manifests}
    unpublished = [f"runs/{name}" for name in store.list("runs") if name not in runs]
    unpublished += [
        f"versions/{name}"
        for name in store.list("versions")
        if name not in published and not store.exists(f"versions/{name}/manifest.json")  # a damaged one is kept
    ]
    for path in unpublished:
        size, modified = store.usage(path)
        if now - modified > retention.abandoned_days * DAY:
            yield Garbage(path, size, f"never published, untouched for {(now - modified) / DAY:.0f} days")


def delete(store: Store, garbage: Garbage) -> None:
    """Remove it. A version loses its manifest first, so that a reader sees it whole or not at all."""
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
