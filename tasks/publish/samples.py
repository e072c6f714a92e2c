"""Samples: a shard's kept samples, copied into a dataset version.

versions/<version>/data/<shard>-<digest>    the digest is that of the shards it is made of
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.settings import Settings
from infra.store import Store, read_marker, read_shard
from tasks.run.layout import shard_name, shard_path, version_name
from tasks.run.progress import Report
from tasks.run.shards import Made, ShardJob, over_shards

__all__ = ["kept_samples", "path_in_version", "publish_shards", "published_paths", "version_of"]

# Stages that a published shard is made of, where it has them. Its name depends on their order.
_MADE_OF = ("synthesize", "refine", "compose", "select")
_PUBLISHED = re.compile(r"(\d+)-[0-9a-f]{8}\.json")  # a marker, named as `path_in_version` does
_SCENE = ["image", "label", "instance"]
_COLUMNS = ["row", "id", "kind", "prompt", "classes", "background", "seed"]


def version_of(settings: Settings) -> str:
    """Name of the version that a run publishes; the same settings always publish the same one."""
    return version_name(settings.name, settings.identity)


def kept_samples(
    store: Store, run: str, shard: int, rows: pd.DataFrame
) -> tuple[dict[str, NDArray[np.uint8]], pd.DataFrame]:
    """Fields and columns of a shard's kept rows.

    Fields are `image` and `label`, and `instance` for scenes and for label maps that have it.
    Columns are those of the plan and of `select`. A label that `select` filtered replaces that of
    `refine`.
    """
    filtered, columns = read_shard(store, shard_path(run, "select", shard))
    composed = (rows["kind"] == "composed").all()
    made_by = {"synthesize": ["image"], "refine": None}  # None: all fields
    stages = {"compose": _SCENE} if composed else made_by
    arrays: dict[str, NDArray[np.uint8]] = {}
    for stage, fields in stages.items():
        arrays |= read_shard(store, shard_path(run, stage, shard), fields)[0]
    keep = columns["keep"].to_numpy()
    arrays = {field: values[keep] for field, values in (arrays | filtered).items()}
    judged = columns.drop(columns=["id", "keep", "reason"])
    table = rows[_COLUMNS].reset_index(drop=True).merge(judged, on="row")
    return arrays, table[keep].reset_index(drop=True)


def path_in_version(store: Store, run: str, version: str, shard: int) -> str:
    """Path of a shard in a version.

    Its name depends on the shards that it is made of, so other content gets another path.
    """
    markers = [read_marker(store, shard_path(run, stage, shard)) for stage in _MADE_OF]
    digests = "".join(marker.digest for marker in markers if marker)
    made_of = hashlib.sha256(digests.encode()).hexdigest()
    return f"versions/{version}/data/{shard_name(shard)}-{made_of[:8]}"


def published_paths(store: Store, run: str, version: str, shards: list[int]) -> list[str]:
    """Paths of a run's shards in a version, in order.

    One listing is enough. Only a shard that exists with several contents, or with none, has its
    path computed.
    """
    found: dict[int, list[str]] = {}
    for name in store.list(f"versions/{version}/data"):
        if match := _PUBLISHED.fullmatch(name):
            found.setdefault(int(match[1]), []).append(name.removesuffix(".json"))
    paths = []
    for shard in shards:
        names = found.get(shard, [])
        if len(names) == 1:
            paths.append(f"versions/{version}/data/{names[0]}")
        else:
            paths.append(path_in_version(store, run, version, shard))
    return paths


def _publish(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    arrays, table = kept_samples(job.store, job.settings.name, job.shard, rows)
    return Made(arrays, table, {"kept": len(table)})


def _path(job: ShardJob) -> str:
    return path_in_version(job.store, job.settings.name, version_of(job.settings), job.shard)


publish_shards = over_shards("publish-shards", _publish, path=_path)
