"""Publish: the kept samples of a run → an immutable dataset version, and the event about it.

The manifest is written last. Before that, no reader sees the version.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect import task

from infra.blocks import open_store
from infra.events import KEEP_RATE_LOW, PARTIAL, PUBLISHED, emit
from infra.settings import GeneratorSettings, Settings
from infra.store import (
    Manifest,
    MissingError,
    Store,
    list_versions,
    publish_version,
    read_version,
)
from tasks.plan.table import Plan
from tasks.publish.card import Kept, dataset_card
from tasks.publish.samples import path_in_version, publish_shards, published_paths, version_of
from tasks.run.layout import shard_name, shard_path
from tasks.run.progress import announce
from tasks.run.shards import ShardJob
from tasks.schemas import origin_of

__all__ = ["NothingKeptError", "is_published", "publish", "remind", "run_of"]


class NothingKeptError(RuntimeError):
    """Select kept no sample of the run, so there is nothing to publish."""


def is_published(settings: Settings) -> bool:
    """Whether the complete version of these settings exists."""
    return open_store(settings.store).exists(f"versions/{version_of(settings)}/manifest.json")


def run_of(settings: Settings, version: str) -> str:
    """Name of the run that published a version."""
    return origin_of(read_version(open_store(settings.store), version)).run


@task(name="publish", task_run_name="publish")
def publish(settings: Settings, shards: list[int], without: Collection[int] = ()) -> str:
    """Write card, vocabulary and manifest, emit the event, and return the version's name.

    Without the shards in `without`, which could not be made, it is another version; its name and
    manifest say so. For a version that is already published only the events are emitted again,
    in case they were what failed.
    """
    store = open_store(settings.store)
    version = version_of(settings)
    if without:
        version = _name_without(version, without)
        shards = [shard for shard in shards if shard not in without]
        _copy(store, settings, version, shards)
    try:
        manifest = read_version(store, version)
    except MissingError:
        manifest = _publish(store, settings, version, shards, sorted(without))
    _emit_published(settings.name, version)
    _emit_alarms(settings, manifest, sorted(without))
    return version


def _name_without(version: str, without: Collection[int]) -> str:
    missing = hashlib.sha256(str(sorted(without)).encode()).hexdigest()
    return f"{version}-without-{missing[:8]}"


def _copy(store: Store, settings: Settings, version: str, shards: list[int]) -> None:
    """Publish these shards in a version that is not the one the settings name."""
    announce("publish-shards", map(shard_name, shards))
    for shard in shards:
        path = path_in_version(store, settings.name, version, shard)
        publish_shards.stage.finish(ShardJob(store, settings, shard), path)


def _publish(
    store: Store, settings: Settings, version: str, shards: list[int], without: list[int]
) -> Manifest:
    vocabulary = settings.load_vocabulary()
    paths = published_paths(store, settings.name, version, shards)
    planned = len(Plan(store, settings))
    with ThreadPoolExecutor(store.place.readers) as pool:
        tables = pool.map(lambda path: Kept.of(store.read_table(f"{path}.parquet")), paths)
        kept = sum(tables, Kept())
    if not kept.samples:
        raise NothingKeptError(_rejections(store, settings.name, shards))
    files = {
        "card.md": dataset_card(version, settings, kept, planned).encode(),
        "vocabulary.json": vocabulary.model_dump_json(indent=1).encode(),
    }
    meta: dict[str, Any] = {
        "run": settings.name,
        "identity": settings.identity,
        "classes": dict(vocabulary.ids),
        "planned": planned,
    }
    if settings.generator.flow is not None:
        meta["drawn"] = _drawn(settings.generator)
    if without:
        meta["without"] = without
    return publish_version(store, version, shards=paths, meta=meta, files=files)


def _drawn(generator: GeneratorSettings) -> dict[str, Any]:
    """The SemFlow and the label maps that a version's images were drawn from."""
    return {
        "checkpoint": generator.flow,
        "weights": generator.weights,
        "labels": generator.labels,
        "labels_digest": generator.labels_digest,
        "layouts": generator.layouts,
    }


def _rejections(store: Store, run: str, shards: list[int]) -> str:
    """The error message for a run of which nothing was kept: reasons, and what to do."""
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(store.read_table(f"{shard_path(run, 'select', shard)}.parquet")["reason"])
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return (
        f"run {run!r}: none of {counts.total()} rows was kept ({reasons}), so nothing is "
        f"published; see runs/{run}/report.html, then fix the generator or loosen the select "
        f"settings, and use another run name"
    )


def remind(settings: Settings) -> None:
    """Emit the event of the newest version of these classes again if nothing was trained on it.

    The first event may have been lost with Prefect's server. A second one changes nothing.
    """
    store = open_store(settings.store)
    classes = dict(settings.load_vocabulary().ids)
    ours = [each for each in list_versions(store) if each.meta.get("classes") == classes]
    if not ours:
        return
    newest = ours[-1]
    run = origin_of(newest).run
    if not store.exists(f"runs/{run}/training.json"):
        _emit_published(run, newest.version)


def _emit_published(run: str, version: str) -> None:
    emit(PUBLISHED, f"dataset.{run}", version, {"version": version, "run": run})


def _emit_alarms(settings: Settings, manifest: Manifest, without: list[int]) -> None:
    """Emit the events of a version that lacks shards, and of one that kept too few samples."""
    resource = f"dataset.{settings.name}"
    if without:
        emit(PARTIAL, resource, manifest.version, {"shards": without})
    planned = manifest.meta.get("planned", 0)
    if manifest.samples < settings.alarm.keep_rate * planned:
        counts = {"kept": manifest.samples, "planned": planned}
        emit(KEEP_RATE_LOW, resource, manifest.version, counts)
