"""Publish: the kept samples of a run → an immutable dataset version, manifest last, and the event that tells of it."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import task
from prefect.events import emit_event

from infra.settings import Settings
from infra.store import Marker, Store, publish_version, read_marker, read_shard, read_version, write_shard
from tasks.card import dataset_card

__all__ = ["EVENT", "NothingKeptError", "publish", "publish_shard", "run_of", "version_of"]

EVENT = "segmint.version.published"
_STAGES = ("synthesize", "refine", "compose", "select")  # that a published shard is made of, as far as it has them
_SCENE = ["image", "label", "instance"]
_COLUMNS = ["row", "id", "kind", "prompt", "classes", "background", "seed"]


class NothingKeptError(RuntimeError):
    """Select kept no sample of the run, so there is nothing to publish."""


def version_of(settings: Settings) -> str:
    """Name of the version that this run publishes: the same settings always publish the same one."""
    return f"{settings.name}-{settings.identity[:8]}"


def run_of(settings: Settings, version: str) -> str:
    """Name of the run that published a version."""
    return str(read_version(Store.open(settings.store.url, settings.store.options), version).meta["run"])


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
    store = Store.open(settings.store.url, settings.store.options)
    path = _path(store, settings, shard)
    if (marker := read_marker(store, path)) is not None:
        return marker
    start = time.monotonic()
    plan = store.read_table(f"runs/{settings.name}/plan.parquet")
    arrays, table = kept_samples(store, settings.name, shard, plan)
    return write_shard(store, path, arrays, table, {"kept": len(table)}, time.monotonic() - start)


@task(name="publish")
def publish(settings: Settings, shards: list[int]) -> str:
    """Write card, vocabulary and the manifest, which makes it a version; emit the event; return its name."""
    store, version = Store.open(settings.store.url, settings.store.options), version_of(settings)
    vocabulary = settings.load_vocabulary()
    with ThreadPoolExecutor(store.place.readers) as pool:
        paths = list(pool.map(lambda shard: _path(store, settings, shard), shards))
    samples = pd.concat([store.read_table(f"{path}.parquet") for path in paths])
    if samples.empty:
        raise NothingKeptError(_rejections(store, settings.name, shards))
    planned = len(store.read_table(f"runs/{settings.name}/plan.parquet"))
    files = {
        "card.md": dataset_card(version, settings, samples, planned).encode(),
        "vocabulary.json": vocabulary.model_dump_json(indent=1).encode(),
    }
    meta = {"run": settings.name, "identity": settings.identity, "classes": dict(vocabulary.ids)}
    manifest = publish_version(store, version, shards=paths, meta=meta, files=files)
    emit_event(
        event=EVENT,
        resource={"prefect.resource.id": f"segmint.dataset.{settings.name}", "prefect.resource.name": version},
        payload={"version": version, "samples": manifest.samples, "settings": settings.resolved()},
    )
    return version


def _path(store: Store, settings: Settings, shard: int) -> str:
    """Path of a shard in the version; the name tells what it is made of, so no other content comes to lie there."""
    markers = [read_marker(store, f"runs/{settings.name}/{stage}/{shard:05d}") for stage in _STAGES]
    made_of = hashlib.sha256("".join(marker.digest for marker in markers if marker).encode()).hexdigest()
    return f"versions/{version_of(settings)}/data/{shard:05d}-{made_of[:8]}"


def _rejections(store: Store, run: str, shards: list[int]) -> str:
    columns = pd.concat([store.read_table(f"runs/{run}/select/{shard:05d}.parquet") for shard in shards])
    reasons = ", ".join(f"{count} {reason}" for reason, count in columns["reason"].value_counts().items())
    return (
        f"run {run!r}: none of {len(columns)} rows was kept ({reasons}), so nothing is published; "
        f"see runs/{run}/report.html, then mend the generator or loosen the select settings and take another name"
    )
