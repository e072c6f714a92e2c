"""Servers and separate processes, for benchmarks of what surrounds the work of a shard."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.fleet import Prefect
from testbed.postgres import Postgres

__all__ = ["in_process", "peak", "servers"]


@contextmanager
def servers(folder: Path) -> Iterator[Prefect]:
    """Start Prefect's server on PostgreSQL."""
    for name in ("postgres", "prefect"):
        (folder / name).mkdir()
    database = Postgres(folder / "postgres")
    database.start()
    server = Prefect(folder / "prefect", database)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        database.stop()


def in_process(
    module: str, *words: object, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run `python -m benchmarks.MODULE WORDS` and return its last line, parsed as JSON.

    The process has its own memory, so its peak can be measured.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, words)]
    chosen = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=chosen, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
