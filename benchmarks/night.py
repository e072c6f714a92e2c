"""The large run whose samples several benchmarks measure: generator, masks, transfer, zero_shot and
ablation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.claims import CACHE, Size
from flows.nightly import nightly
from infra.settings import Settings
from infra.store import Store, read_shard
from segmint.console import progress
from tasks.plan.resolve import with_weights

__all__ = ["Night", "night", "planned_night", "run_night"]

# generated images, and composed scenes
_IMAGES = {"quick": (60, 20), "default": (3000, 1500), "full": (12000, 6000)}


@dataclass(frozen=True)
class Night:
    """A finished run: settings, version, and the table of its generated rows.

    `table` is the plan joined with the columns of refine and select; composed scenes are only in
    the version. `read` returns the rows' arrays.
    """

    settings: Settings
    store: Store
    version: str
    table: pd.DataFrame

    def read(self, stage: str, field: str, rows: pd.DataFrame) -> NDArray[Any]:
        """Return a field of `rows`, which are of `table` and in any order."""
        parts: dict[int, NDArray[Any]] = {}
        for shard, group in rows.groupby("shard", sort=False):
            arrays, columns = read_shard(
                self.store, f"runs/{self.settings.name}/{stage}/{shard:05d}", [field]
            )
            where = pd.Index(columns["row"]).get_indexer(group["row"])
            parts.update(zip(group["row"], arrays[field][where], strict=True))
        return np.stack([parts[row] for row in rows["row"]])


def night(size: Size) -> Night:
    """Return the run of that size; it is made, or resumed, if it is not finished."""
    images, composed = _IMAGES[size]
    shard_size = 30 if size == "quick" else 100
    return planned_night(f"bench-{size}", 2026, composed, images=images, shard_size=shard_size)


def planned_night(name: str, seed: int, composed: int, **plan: Any) -> Night:
    """Return the run with this seed, plan and number of composed scenes, as `run_night` does.

    It is called `name`, followed by its identity.
    """
    settings = Settings(
        seed=seed,
        store={"url": str(CACHE / "store")},
        compose={"images": composed},
        plan={"multi": 0.4, "negatives": 0.05, **plan},
        compute={"runner": "dask-local", "workers": os.cpu_count()}
        if not torch.cuda.is_available()
        else {},
    )
    # other weights or settings are another run, beside the ones made before
    name = f"{name}-{with_weights(settings).identity[:8]}"
    return run_night(settings.model_copy(update={"name": name}))


def run_night(settings: Settings) -> Night:
    """Return the run of these settings; it is made, or resumed, if it is not finished."""
    with progress():
        version = nightly(settings)
    store = Store.open(settings.store.url)
    plan = store.read_table(f"runs/{settings.name}/plan.parquet")
    plan = plan[plan["kind"] != "composed"]
    tables = {
        stage: pd.concat(
            read_shard(store, f"runs/{settings.name}/{stage}/{s:05d}", [])[1].drop(columns="id")
            for s in plan["shard"].unique()
        )
        for stage in ("refine", "select")
    }
    table = plan.merge(tables["refine"], on="row").merge(
        tables["select"], on="row", suffixes=("", "_select")
    )
    return Night(settings, store, version, table)
