"""Publish: the kept samples of a run → an immutable dataset version, manifest last, and the event that tells of it."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import task

from infra.blocks import open_store
from infra.events import KEEP_RATE_LOW, PUBLISHED, tell
from infra.settings import Settings
from infra.store import Marker, Store, publish_version, read_marker, read_shard, read_version, write_shard
from tasks.card import dataset_card
from tasks.records import origin_of

__all__ = ["NothingKeptError", "publish", "publish_shard", "run_of", "version_of"]

_SCENE = ["image", "label", "instance"]
_COLUMNS = ["row", "id", "kind", "prompt", "classes", "background", "seed"]


class NothingKeptError(RuntimeError):
    """Select kept no sample of the run, so there is nothing to publish."""


def version_of(settings: Settings) -> str:
    """Name of the version that this run publishes: the same settings always publish the same one."""
    return f"{settings.name}-{settings.identity[:8]}"


def run_of(settings: Settings, version: str) -> str:
    """Name of the run that published a version."""
    return origin_of(read_version(open_store(settings.store), version)).run


def kept_samples(
    store: Store, run: str, shard: int, plan: pd.DataFrame
) -> tuple[dict[str, NDArray[np.uint8]], pd.DataFrame]:
    """Fields of a shard's kept rows (`image`, `label`; of scenes `instance`), and their columns of plan and select."""
    refined, columns = read_shard(store, f"runs/{run}/select/{shard:05d}")
    rows = plan[plan["shard"] == shard]
    composed = (rows["kind"] == "composed").all()
    stages = {"compose": _SCENE} if composed else {"synthesize": ["image"], "refine": ["label"]}
    keep, arrays = columns["keep"].to_numpy(), {}
    for stage, fields in stages.items():
        arrays.update(read_shard(store, f"runs/{run}/{stage}/{shard:05d}", fields)[0])
    arrays = {field: values[keep] for field, values in (arrays | refined).items()}
    table = rows[_COLUMNS].reset_index(drop=True).merge(columns.drop(columns=["id", "keep", "reason"]), on="row")
    return arrays, table[keep].reset_index(drop=True)


@task(name="publish-shard", task_run_name="publish-{shard}")
def publish_shard(settings: Settings, shard: int) -> Marker:
    """Copy one shard's kept samples into the version, unless they are there."""
    store = open_store(settings.store)
    path = f"versions/{version_of(settings)}/data/{shard:05d}"
    if (marker := read_marker(store, path)) is not None:
        return marker
    start = time.monotonic()
    plan = store.read_table(f"runs/{settings.name}/plan.parquet")
    arrays, table = kept_samples(store, settings.name, shard, plan)
    return write_shard(store, path, arrays, table, {"kept": len(table)}, time.monotonic() - start)


@task(name="publish")
def publish(settings: Settings, shards: list[int]) -> str:
    """Write card and vocabulary, then the manifest, which makes it a version; tell of it; return its name."""
    store, version = open_store(settings.store), version_of(settings)
    vocabulary = settings.load_vocabulary()
    folder = f"versions/{version}"
    paths = [f"{folder}/data/{shard:05d}" for shard in shards]
    samples = pd.concat([store.read_table(f"{path}.parquet") for path in paths])
    if samples.empty:
        raise NothingKeptError(_rejections(store, settings.name, shards))
    store.write_json(f"{folder}/vocabulary.json", vocabulary.model_dump(mode="json"))
    planned = len(store.read_table(f"runs/{settings.name}/plan.parquet"))
    store.write_bytes(f"{folder}/card.md", dataset_card(version, settings, samples, planned).encode())
    meta = {"run": settings.name, "identity": settings.identity, "classes": dict(vocabulary.ids)}
    manifest = publish_version(store, version, shards=paths, meta=meta)
    told = {"version": version, "samples": manifest.samples, "settings": settings.resolved()}
    tell(PUBLISHED, f"dataset.{settings.name}", version, told)
    if manifest.samples < settings.alarm.keep_rate * planned:
        tell(KEEP_RATE_LOW, f"dataset.{settings.name}", version, {"kept": manifest.samples, "planned": planned})
    return version


def _rejections(store: Store, run: str, shards: list[int]) -> str:
    columns = pd.concat([store.read_table(f"runs/{run}/select/{shard:05d}.parquet") for shard in shards])
    reasons = ", ".join(f"{count} {reason}" for reason, count in columns["reason"].value_counts().items())
    return (
        f"run {run!r}: none of {len(columns)} rows was kept ({reasons}), so nothing is published; "
        f"see runs/{run}/report.html, then mend the generator or loosen the select settings and take another name"
    )
