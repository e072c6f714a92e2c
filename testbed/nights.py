"""The smallest run with rows of every kind: single, multi, negative and composed, in five shards.

Everything is real, the embedded generator included. It samples with two steps, and the selection
keeps nearly everything.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings

from flows.nightly import nightly
from infra.blocks import open_store
from infra.settings import Settings
from infra.store import Store, read_marker, read_shard
from tasks.run.progress import Event, listening

__all__ = [
    "SHARDS",
    "STAGES",
    "Samples",
    "finished",
    "objects",
    "run",
    "samples",
    "settings",
    "start",
    "store_of",
    "version",
]

STAGES = {"synthesize": range(4), "refine": range(4), "compose": range(4, 5), "select": range(5)}
SHARDS = range(5)
ROWS = 2  # of every shard
_NIGHT: dict[str, Any] = {
    "name": "night",
    "seed": 7,
    "plan": {"images": 8, "multi": 0.25, "negatives": 0.25, "shard_size": ROWS},
    "compose": {"images": 2, "spliced": 0.0},
    "generator": {"num_inference_steps": 2, "batch_size": ROWS, "device": "cpu"},
    "refine": {"ignore_band": 0.0},
    "select": {
        "min_area": 0.0,
        "max_area": 1.0,
        "max_ignored": 1.0,
        "min_confidence": 0.0,
        "min_consistency": 0.0,
        "min_contrast": 0.0,
        "max_components": 10_000,
        "min_largest": 0.0,
    },
}
# imports once, in a process without threads, then forks
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])

Samples = tuple[dict[str, np.ndarray], pd.DataFrame]


def settings(url: Path | str, **changes: Any) -> Settings:
    """Return the settings of the small run in the store `url`.

    Sections may be changed in part: `settings(url, plan={"shard_size": 3})`.
    """
    values = dict(_NIGHT, store={"url": str(url)})
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, Mapping) else change
    return Settings(**values)


def store_of(chosen: Settings) -> Store:
    """Open the store of these settings."""
    return open_store(chosen.store)


def version(chosen: Settings) -> str:
    """Return the name of the version that a run with these settings has published.

    The identity is read from the store, since it covers the generator's weights.
    """
    record = store_of(chosen).read_json(f"runs/{chosen.name}/settings.json")
    return f"{chosen.name}-{record['identity'][:8]}"


def run(chosen: Settings) -> Counter[str]:
    """Run in this process; return how many rows each stage worked on."""
    worked: Counter[str] = Counter()
    with listening(lambda event: worked.update({event.stage: event.amount})):
        nightly(chosen)
    return +worked


def start(chosen: Settings, log: Path) -> BaseProcess:
    """Run in a new process, which appends a line `stage rows` to `log` for each step of work."""
    process = _PROCESSES.Process(target=_run_logged, args=(chosen, PREFECT_API_URL.value(), log))
    process.start()
    return process


def _run_logged(chosen: Settings, api: str, log: Path) -> None:
    torch.set_num_threads(1)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(event: Event) -> None:
        if event.amount:
            os.write(file, f"{event.stage} {event.amount}\n".encode())

    with (
        temporary_settings({PREFECT_API_URL: api, PREFECT_LOGGING_LEVEL: "CRITICAL"}),
        listening(write),
    ):
        nightly(chosen)


def finished(chosen: Settings) -> set[str]:
    """Return the paths of the finished shards."""
    store = store_of(chosen)
    paths = {
        f"runs/{chosen.name}/{stage}/{shard:05d}"
        for stage, shards in STAGES.items()
        for shard in shards
    }
    return {path for path in paths if read_marker(store, path)}


def samples(chosen: Settings) -> Samples:
    """Return the arrays of every row in the plan's order, and the columns of all stages."""
    store = store_of(chosen)
    folder = f"runs/{chosen.name}"
    arrays: dict[str, np.ndarray] = {}
    table = store.read_table(f"{folder}/plan.parquet").drop(columns="shard")
    for stage in STAGES:
        files = store.list(f"{folder}/{stage}")
        names = [name.removesuffix(".json") for name in files if name.endswith(".json")]
        shards = [read_shard(store, f"{folder}/{stage}/{name}") for name in names]
        for field in shards[0][0]:
            arrays[f"{stage}.{field}"] = np.concatenate([fields[field] for fields, _ in shards])
        columns = pd.concat([columns for _, columns in shards]).drop(columns="id").set_index("row")
        table = table.join(columns.add_prefix(f"{stage}."), on="row")
    return arrays, table


def objects(root: Path) -> dict[str, bytes]:
    """Return the content of every file of a store by path, without seconds, dates and the store's
    own path.

    The publishers' agreements are left out too: their names are digests of manifests, which hold
    dates.
    """
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".partial"]
    paths = [path for path in paths if path.relative_to(root).parts[0] != "publications"]
    return {
        str(path.relative_to(root)): _timeless(path).replace(str(root).encode(), b"STORE")
        for path in paths
        if path.name != "report.html"  # shows rates
    }


def _timeless(path: Path) -> bytes:
    if path.suffix != ".json":
        return path.read_bytes()
    value = json.loads(path.read_bytes())
    kept = {name: v for name, v in value.items() if name not in ("seconds", "created", "seal")}
    return json.dumps(kept).encode()
