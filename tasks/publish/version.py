"""Publish: the kept samples of a run → an immutable dataset version, manifest last, and the event
that tells of it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import task

from infra.blocks import open_store
from infra.events import KEEP_RATE_LOW, PARTIAL, PUBLISHED, tell
from infra.settings import Settings
from infra.store import (
    Manifest,
    Marker,
    MissingError,
    Store,
    list_versions,
    publish_version,
    read_marker,
    read_shard,
    read_version,
    write_shard,
)
from tasks.plan.table import Plan
from tasks.publish.card import Kept, dataset_card
from tasks.run.stages import over_shards
from tasks.schemas import origin_of

__all__ = [
    "NothingKeptError",
    "folders",
    "is_published",
    "publish",
    "publish_shards",
    "published_paths",
    "remind",
    "run_of",
    "version_of",
]

_STAGES = (
    "synthesize",
    "refine",
    "compose",
    "select",
)  # that a published shard is made of, as far as it has them
_PUBLISHED = re.compile(r"(\d+)-[0-9a-f]{8}\.json")  # marker of a shard in a version, see `_path`
_SCENE = ["image", "label", "instance"]
_COLUMNS = ["row", "id", "kind", "prompt", "classes", "background", "seed"]


class NothingKeptError(RuntimeError):
    """Select kept no sample of the run, so there is nothing to publish."""


def version_of(settings: Settings) -> str:
    """Name of the version that this run publishes: the same settings always publish the same one."""
    return f"{settings.name}-{settings.identity[:8]}"


def is_published(settings: Settings) -> bool:
    """Whether the version of these settings is there, whole."""
    return open_store(settings.store).exists(f"versions/{version_of(settings)}/manifest.json")


def folders(settings: Settings) -> dict[str, str]:
    """Where in the store each stage of a run leaves its shards."""
    run = f"runs/{settings.name}"
    own = {
        stage: f"{run}/{stage}" for stage in ("synthesize", "refine", "screen", "select", "compose")
    }
    return own | {
        "hold-out": f"{run}/hold-out",
        "publish-shards": f"versions/{version_of(settings)}/data",
    }


def run_of(settings: Settings, version: str) -> str:
    """Name of the run that published a version."""
    return origin_of(read_version(open_store(settings.store), version)).run


def kept_samples(
    store: Store, run: str, shard: int, rows: pd.DataFrame
) -> tuple[dict[str, NDArray[np.uint8]], pd.DataFrame]:
    """Fields of a shard's kept rows (`image`, `label`; of scenes `instance`), and their columns of
    plan and select.
    """
    refined, columns = read_shard(store, f"runs/{run}/select/{shard:05d}")
    composed = (rows["kind"] == "composed").all()
    stages = {"compose": _SCENE} if composed else {"synthesize": ["image"], "refine": ["label"]}
    keep, arrays = columns["keep"].to_numpy(), {}
    for stage, fields in stages.items():
        arrays.update(read_shard(store, f"runs/{run}/{stage}/{shard:05d}", fields)[0])
    arrays = {field: values[keep] for field, values in (arrays | refined).items()}
    table = (
        rows[_COLUMNS]
        .reset_index(drop=True)
        .merge(columns.drop(columns=["id", "keep", "reason"]), on="row")
    )
    return arrays, table[keep].reset_index(drop=True)


def publish_shard(settings: Settings, shard: int) -> Marker:
    """Copy one shard's kept samples into the version, unless they are there."""
    return _publish_shard(open_store(settings.store), settings, version_of(settings), shard)


def _publish_shard(store: Store, settings: Settings, version: str, shard: int) -> Marker:
    path = _path(store, settings, version, shard)
    if (marker := read_marker(store, path)) is not None:
        return marker
    start = time.monotonic()
    arrays, table = kept_samples(store, settings.name, shard, Plan(store, settings).of_shard(shard))
    return write_shard(store, path, arrays, table, {"kept": len(table)}, time.monotonic() - start)


@task(name="publish")
def publish(settings: Settings, shards: list[int], without: Collection[int] = ()) -> str:
    """Write card, vocabulary and the manifest, which makes it a version; tell of it; return its
    name.

    `without` some shards that could not be made it is another version, whose name and manifest tell
    of them. One that is published already is told of again, in case the telling was what failed.
    """
    store, version = open_store(settings.store), version_of(settings)
    if without:
        version = (
            f"{version}-without-{hashlib.sha256(str(sorted(without)).encode()).hexdigest()[:8]}"
        )
        shards = [shard for shard in shards if shard not in without]
        for shard in shards:
            _publish_shard(store, settings, version, shard)
    try:
        manifest = read_version(store, version)
    except MissingError:
        manifest = _publish(store, settings, version, shards, sorted(without))
    _tell(settings, settings.name, version, manifest.samples)
    if without:
        tell(PARTIAL, f"dataset.{settings.name}", version, {"shards": sorted(without)})
    planned = manifest.meta.get("planned", 0)
    if manifest.samples < settings.alarm.keep_rate * planned:
        tell(
            KEEP_RATE_LOW,
            f"dataset.{settings.name}",
            version,
            {"kept": manifest.samples, "planned": planned},
        )
    return version


def remind(settings: Settings) -> None:
    """Tell of the newest version of these classes once more if nothing was trained on it.

    What told of it may have died with Prefect's server. Hearing of a version twice changes nothing.
    """
    store, classes = open_store(settings.store), dict(settings.load_vocabulary().ids)
    ours = [each for each in list_versions(store) if each.meta.get("classes") == classes]
    if ours and not store.exists(f"runs/{(run := origin_of(ours[-1]).run)}/training.json"):
        _tell(settings, run, ours[-1].version, ours[-1].samples)


def _tell(settings: Settings, run: str, version: str, samples: int) -> None:
    payload = {"version": version, "samples": samples, "settings": settings.resolved()}
    tell(PUBLISHED, f"dataset.{run}", version, payload)


def _publish(
    store: Store, settings: Settings, version: str, shards: list[int], without: list[int]
) -> Manifest:
    vocabulary = settings.load_vocabulary()
    paths, planned = published_paths(store, settings, version, shards), len(Plan(store, settings))
    with ThreadPoolExecutor(store.place.readers) as pool:
        kept = sum(
            pool.map(lambda path: Kept.of(store.read_table(f"{path}.parquet")), paths), Kept()
        )
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
    }
    meta |= {"planned": planned} | ({"without": without} if without else {})
    return publish_version(store, version, shards=paths, meta=meta, files=files)


def published_paths(store: Store, settings: Settings, version: str, shards: list[int]) -> list[str]:
    """Paths of shards in the version: one listing tells, unless a shard is there with several
    contents, or not.
    """
    there: dict[int, list[str]] = {}
    for name in store.list(f"versions/{version}/data"):
        if found := _PUBLISHED.fullmatch(name):
            there.setdefault(int(found[1]), []).append(name.removesuffix(".json"))
    of_shard = {shard: there.get(shard, []) for shard in shards}
    return [
        f"versions/{version}/data/{names[0]}"
        if len(names) == 1
        else _path(store, settings, version, shard)
        for shard, names in of_shard.items()
    ]


def _path(store: Store, settings: Settings, version: str, shard: int) -> str:
    """Path of a shard in the version; the name tells what it is made of, so no other content comes
    to lie there.
    """
    markers = [read_marker(store, f"runs/{settings.name}/{stage}/{shard:05d}") for stage in _STAGES]
    made_of = hashlib.sha256(
        "".join(marker.digest for marker in markers if marker).encode()
    ).hexdigest()
    return f"versions/{version}/data/{shard:05d}-{made_of[:8]}"


def _rejections(store: Store, run: str, shards: list[int]) -> str:
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(store.read_table(f"runs/{run}/select/{shard:05d}.parquet")["reason"])
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return (
        f"run {run!r}: none of {counts.total()} rows was kept ({reasons}), so nothing is published; "
        f"see runs/{run}/report.html, then mend the generator or loosen the select settings and take another name"
    )


publish_shards = over_shards("publish-shards", publish_shard)
