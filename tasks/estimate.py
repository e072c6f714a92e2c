"""Estimate: what a plan will cost, from what the store's own finished shards took with the same generator."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from infra.settings import Settings
from infra.store import Marker, Store, read_marker
from tasks.records import Record

__all__ = ["Cost", "Rate", "estimate", "measured_rate"]


@dataclass(frozen=True)
class Rate:
    """What one image of the plan takes in all stages: seconds of one worker, and bytes in the store."""

    seconds: float
    bytes: float
    measured_on: str  # the run it was measured on


@dataclass(frozen=True)
class Cost:
    """What a plan takes: `seconds` with its workers at work, `bytes` in the store."""

    seconds: float
    bytes: int


def estimate(plan: pd.DataFrame, seconds_per_image: float, bytes_per_image: float, workers: int = 1) -> Cost:
    """Cost of a plan table; a worker takes whole shards."""
    shards = plan["shard"].value_counts()
    rows_of_busiest = min(-(-len(shards) // workers) * int(shards.max()), len(plan))
    return Cost(rows_of_busiest * seconds_per_image, round(len(plan) * bytes_per_image))


def measured_rate(store: Store, settings: Settings) -> Rate | None:
    """The rate of the last run (by name) in the store with the same generator settings; None if there is none."""
    wanted = settings.resolved()["generator"]
    for run in reversed(store.list("runs")):
        record = f"runs/{run}/settings.json"
        if store.exists(record) and store.read_json(record, Record)["settings"]["generator"] == wanted:
            markers = _markers(store, f"runs/{run}")
            if images := sum(len(marker.ids) for marker in markers.get("synthesize", [])):
                return _rate(run, images, [marker for of_stage in markers.values() for marker in of_stage])
    return None


def _rate(run: str, images: int, markers: list[Marker]) -> Rate:
    size = sum(file.size for marker in markers for file in marker.files.values())
    return Rate(sum(marker.seconds for marker in markers) / images, size / images, run)


def _markers(store: Store, run: str) -> dict[str, list[Marker]]:
    stages = [name for name in store.list(run) if "." not in name]
    return {
        stage: list(filter(None, (_marker(store, f"{run}/{stage}", n) for n in store.list(f"{run}/{stage}"))))
        for stage in stages
    }


def _marker(store: Store, folder: str, name: str) -> Marker | None:
    return read_marker(store, f"{folder}/{name.removesuffix('.json')}") if name.endswith(".json") else None
