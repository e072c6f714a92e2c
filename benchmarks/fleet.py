"""Servers, and processes of their own, for benchmarks that measure what surrounds the work of a
shard.
"""

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
    """Prefect's server on PostgreSQL."""
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
    """What `python -m benchmarks.MODULE WORDS` prints last, as JSON: its time and memory are apart
    from ours.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, words)]
    chosen = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=chosen, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
