"""A real Dask scheduler and its workers, as a team starts them by hand, one thread and no nanny each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fleet import PROJECT, wait_until
from tests.swift import answers, free_ports

__all__ = ["Dask"]

START_SECONDS = 600.0  # it takes five on an idle machine
WORKER = ("--no-nanny", "--nthreads=1", "--dashboard-address=127.0.0.1:0")


class Dask:
    """A scheduler and `workers`, called worker-0 and so on, which have `environment`."""

    def __init__(self, root: Path, environment: Mapping[str, str], workers: int) -> None:
        self.root, self.port = root, free_ports(1)[0]
        self.address = f"dask://127.0.0.1:{self.port}"
        self._environment = {**environment, "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0"}
        self._names = [f"worker-{number}" for number in range(workers)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start all of it; workers come when they are ready."""
        here = ("--host", "127.0.0.1")
        self._run("scheduler", *here, "--port", str(self.port), "--dashboard-address=127.0.0.1:0")
        wait_until(lambda: answers(self.port), START_SECONDS)
        for name in self._names:
            self._run("worker", f"127.0.0.1:{self.port}", *here, "--name", name, *WORKER)

    def stop(self) -> None:
        """Stop everything as a power cut would."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _run(self, *words: str) -> None:
        with (self.root / "dask.log").open("ab") as log:
            command = [sys.executable, "-m", "dask", *words]
            started = subprocess.Popen(command, cwd=PROJECT, env=self._environment, stdout=log, stderr=log)
        self._processes.append(started)
