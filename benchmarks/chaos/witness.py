"""Preloaded by the benchmark's Dask workers: logs their shards, and kills them at a poisoned one.

The environment variable `LOG` names the log, with a line `STAGE SHARD ROWS PID` per step, 0 rows
where a stage begins. `POISON` names a file; if it exists, it holds the `STAGE SHARD` that kills the
worker which begins it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

from prefect.context import TaskRunContext

# imported now: later, on a busy machine, the worker would be silent for long and be given up
import flows.nightly
from tasks.run.progress import Event, listening

__all__ = ["LOG", "POISON", "Sight", "dask_setup", "flows", "sights"]

LOG = "CHAOS_LOG"
POISON = "CHAOS_POISON"
_kept: list[Any] = []  # a listener that nothing refers to is garbage


class Sight(NamedTuple):
    """A line of the log: a worker has begun a shard (`rows` 0), or has done some more rows."""

    stage: str
    shard: int
    rows: int
    pid: int


def dask_setup(worker: object) -> None:
    """Dask calls this in each worker that was started with `--preload benchmarks.chaos.witness`."""
    log = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    poison = Path(os.environ[POISON])

    task = None

    def tell(event: Event) -> None:
        nonlocal task
        if (context := TaskRunContext.get()) is None:
            return
        (shard,) = context.parameters["shards"]  # a small night has one a task
        begins, task = task != context.task_run.id, context.task_run.id
        if begins or event.amount:
            os.write(log, f"{event.stage} {shard} {event.amount} {os.getpid()}\n".encode())
        if begins and poison.exists() and poison.read_text() == f"{event.stage} {shard}":
            os.kill(os.getpid(), signal.SIGKILL)

    _kept.append(listening(tell))
    _kept[-1].__enter__()


def sights(log: Path) -> list[Sight]:
    """Return all that the workers have logged so far."""
    words = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [Sight(stage, int(shard), int(rows), int(pid)) for stage, shard, rows, pid in words]
