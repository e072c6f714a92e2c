"""What a Dask worker of the benchmark loads first: it tells of its shards, and dies of a poisoned
one.

A line `STAGE SHARD ROWS PID` (no rows: it begins) in the file that `LOG` names, written at once;
`POISON` names a file with the `STAGE SHARD` that kills whoever begins it, if there is one.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

from prefect.context import TaskRunContext

# a worker that imports it later is long silent, and given up, on a busy machine
import flows.nightly
from tasks.run.progress import Event, listening

__all__ = ["LOG", "POISON", "Sight", "dask_setup", "flows", "sights"]

LOG, POISON = "CHAOS_LOG", "CHAOS_POISON"
_kept = []  # a listener is gone when nobody holds it


class Sight(NamedTuple):
    """A shard that a worker has begun (`rows` 0) or of which it has done some rows more."""

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
    """All that workers told so far."""
    words = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [Sight(stage, int(shard), int(rows), int(pid)) for stage, shard, rows, pid in words]
