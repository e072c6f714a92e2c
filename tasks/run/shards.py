"""Shards: what every stage does around the work of one shard.

A stage is a function from a shard's planned rows to arrays, columns and statistics. `over_shards`
makes a Prefect task of it. The task skips shards that are in the store, measures time, reports
progress and writes the result, marker last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
from numpy.typing import NDArray
from prefect import Task
from prefect.logging import get_run_logger
from prefect.runtime import task_run

from infra.blocks import open_store
from infra.clusters import gpu_slot
from infra.logs import located
from infra.settings import Settings
from infra.store import Marker, Store, read_marker, read_shard, write_shard
from tasks.plan.table import Plan
from tasks.run.layout import shard_name, shard_path
from tasks.run.progress import Report, give_up

__all__ = ["Arrays", "Made", "Make", "ShardJob", "ShardTask", "ShardsFailedError", "over_shards"]

Arrays = Mapping[str, NDArray[Any]]


class Made(NamedTuple):
    """The result of one stage for one shard, before it is stored.

    `arrays` have one entry per row of `table` (which has `row` and `id`); `stats` are JSON values.
    """

    arrays: Arrays
    table: pd.DataFrame
    stats: Mapping[str, Any]


@dataclass(frozen=True)
class ShardJob:
    """One shard to work on: the run's settings, its store and plan, and the shard's number."""

    store: Store
    settings: Settings
    shard: int

    @cached_property
    def plan(self) -> Plan:
        """The run's plan, opened when it is first needed."""
        return Plan(self.store, self.settings)

    @property
    def name(self) -> str:
        """The shard's name in file names and progress."""
        return shard_name(self.shard)

    def path(self, stage: str) -> str:
        """Path of this shard as another stage of the run stores it."""
        return shard_path(self.settings.name, stage, self.shard)

    def read(
        self, stage: str, fields: list[str] | None = None
    ) -> tuple[dict[str, NDArray[Any]], pd.DataFrame]:
        """Fields (default: all) and all columns of this shard as another stage stored it.

        Raises `MissingError` if that stage has not finished the shard.
        """
        return read_shard(self.store, self.path(stage), fields)


Make = Callable[[ShardJob, pd.DataFrame, Report], Made]


def _planned_rows(job: ShardJob) -> pd.DataFrame:
    return job.plan.of_shard(job.shard)


@dataclass(frozen=True)
class ShardStage:
    """A stage as `over_shards` describes it."""

    name: str
    make: Make
    rows: Callable[[ShardJob], pd.DataFrame]
    path: Callable[[ShardJob], str] | None
    gpu: bool

    def finish(self, job: ShardJob, path: str | None = None) -> Marker:
        """Make and store a shard unless it is in the store; return its marker.

        `path` replaces the stage's own path.
        """
        path = path or (self.path(job) if self.path else job.path(self.name))
        if (marker := read_marker(job.store, path)) is not None:
            with Report(self.name, job.name, 0):  # it may have been announced before it was written
                return marker
        rows = self.rows(job)
        slot = gpu_slot(job.settings.compute) if self.gpu else nullcontext()
        with slot, Report(self.name, job.name, len(rows)) as report:
            start = time.monotonic()
            made = self.make(job, rows, report)
            report.complete()
            seconds = time.monotonic() - start
        return write_shard(job.store, path, made.arrays, made.table, made.stats, seconds)

    def shard(self, settings: Settings, shard: int) -> Marker:
        """`finish` for a shard by its number, outside Prefect."""
        return self.finish(ShardJob(open_store(settings.store), settings, shard))


class ShardsFailedError(RuntimeError):
    """Some shards of a task failed; `reasons` by shard."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(reasons)
        super().__init__(
            "; ".join(f"shard {shard_name(n)}: {reason}" for n, reason in self.reasons.items())
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardsFailedError, (self.reasons,)  # so that it can be unpickled from a Dask worker


class ShardTask(Task[[Settings, list[int]], None]):
    """The Prefect task of a stage. `stage` works without Prefect; `shard(settings, n)` runs one."""

    stage: ShardStage
    shard: Callable[[Settings, int], Marker]


def over_shards(
    name: str,
    make: Make,
    *,
    rows: Callable[[ShardJob], pd.DataFrame] = _planned_rows,
    path: Callable[[ShardJob], str] | None = None,
    gpu: bool = False,
) -> ShardTask:
    """The Prefect task that does stage `name` of a list of shards; each shard fails by itself.

    `make` gets the job, its rows and a progress report, which it calls with every batch of rows
    done; what it does not report counts as done at its end. `rows` are the planned ones and `path`
    is the stage's own in the run unless they are given. With `gpu` the work waits for a GPU slot.
    The task raises `ShardsFailedError` at its end if there were errors.
    """
    stage = ShardStage(name, make, rows, path, gpu)

    def run(settings: Settings, shards: list[int]) -> None:
        failed: dict[int, str] = {}
        for shard in shards:
            with located(run=settings.name, stage=name, shard=shard_name(shard)):
                try:
                    stage.shard(settings, shard)
                except Exception as error:
                    get_run_logger().exception(
                        "run %s, stage %s, shard %05d", settings.name, name, shard
                    )
                    give_up(name, shard_name(shard))
                    failed[shard] = f"{type(error).__name__}: {error}"
        if failed:
            raise ShardsFailedError(failed)

    made = ShardTask(run, name=name, task_run_name=lambda: _run_name(name))
    made.stage = stage
    made.shard = stage.shard
    return made


def _run_name(stage: str) -> str:
    """Name of a task run: the stage and its first and last shard, such as `refine 0-3`."""
    shards = task_run.parameters["shards"]
    return f"{stage} {shards[0]}" + (f"-{shards[-1]}" if len(shards) > 1 else "")
