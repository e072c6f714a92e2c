"""Estimate: the cost of a plan, from finished shards in the store made with the same generator."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.settings import Settings
from infra.store import Marker, Store, read_marker
from tasks.plan.rows import stored_record

__all__ = ["Cost", "Rate", "estimate", "measured_rate"]

SAMPLED = 100  # approximate number of a stage's markers that are read


@dataclass(frozen=True)
class Rate:
    """Cost of one image over all stages: seconds of one worker, and bytes in the store."""

    seconds: float
    bytes: float
    measured_on: str  # the run it was measured on


@dataclass(frozen=True)
class Cost:
    """Cost of a plan: `seconds` until its workers are done, and `bytes` in the store."""

    seconds: float
    bytes: int


def estimate(
    rows: int,
    shards: int,
    shard_size: int,
    seconds_per_image: float,
    bytes_per_image: float,
    workers: int = 1,
) -> Cost:
    """Cost of a plan; a worker takes whole shards."""
    rows_of_busiest = min(-(-shards // workers) * shard_size, rows)
    return Cost(rows_of_busiest * seconds_per_image, round(rows * bytes_per_image))


def measured_rate(store: Store, settings: Settings) -> Rate | None:
    """The rate of the last run, by name, with the same generator settings; None without one."""
    wanted = settings.resolved()["generator"]
    for run in reversed(store.list("runs")):
        record = stored_record(store, run)
        if record and record["settings"]["generator"] == wanted:
            stages = _stages(store, f"runs/{run}")
            if "synthesize" in stages and (images := stages["synthesize"].images):
                seconds = sum(stage.seconds for stage in stages.values())
                size = sum(stage.bytes for stage in stages.values())
                return Rate(seconds / images, size / images, run)
    return None


@dataclass(frozen=True)
class _Stage:
    images: float
    seconds: float
    bytes: float


def _stages(store: Store, run: str) -> dict[str, _Stage]:
    """Totals of the finished shards of each stage; those of large stages are extrapolated."""
    found = {}
    for stage in (name for name in store.list(run) if "." not in name):
        folder = f"{run}/{stage}"
        paths = [f"{folder}/{name[:-5]}" for name in store.list(folder) if name.endswith(".json")]
        sampled = paths[:: max(1, len(paths) // SAMPLED)]
        with ThreadPoolExecutor(store.place.readers) as pool:
            markers = list(filter(None, pool.map(lambda path: read_marker(store, path), sampled)))
        found[stage] = _summed(markers, len(paths) / max(len(sampled), 1))
    return found


def _summed(markers: Sequence[Marker], times: float) -> _Stage:
    images = sum(len(marker.ids) for marker in markers)
    seconds = sum(marker.seconds for marker in markers)
    size = sum(file.size for marker in markers for file in marker.files.values())
    return _Stage(times * images, times * seconds, times * size)
