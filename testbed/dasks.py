"""A real Dask scheduler and its workers, each with one thread and no nanny."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from testbed.fleet import PROJECT
from testbed.processes import answers, end, free_ports, spawned, wait_until

__all__ = ["Dask"]

START_SECONDS = 600.0  # it takes five on an idle machine


class Dask:
    """A scheduler and workers with this environment; the workers are named worker-0 and so on."""

    def __init__(self, root: Path, environment: Mapping[str, str], workers: int) -> None:
        self.root = root
        self.port = free_ports(1)[0]
        self.address = f"dask://127.0.0.1:{self.port}"
        self.workers = tuple(f"worker-{number}" for number in range(workers))
        self._environment = {**environment, "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start scheduler and workers; wait for the scheduler only."""
        self._start("scheduler")
        wait_until(lambda: answers(self.port), START_SECONDS)
        for name in self.workers:
            self._start(name)

    def stop(self) -> None:
        """Kill all of them."""
        end(list(self._running.values()), signal.SIGKILL)

    def pid(self, name: str) -> int:
        """Return the process id of `scheduler`, `worker-0` and so on."""
        return self._running[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send one of them a signal."""
        self._running[name].send_signal(number)

    def _start(self, name: str) -> None:
        address = ["--host", "127.0.0.1", "--no-dashboard"]
        command = [sys.executable, "-m", "dask", *self._words(name), *address]
        log = self.root / f"{name}.log"
        self._running[name] = spawned(command, log, cwd=PROJECT, env=self._environment_of(name))

    def _words(self, name: str) -> list[str]:
        """Return the words of the command that starts it, after `dask`."""
        if name not in self.workers:
            return [name, "--port", str(self.port)]
        folder = ["--local-directory", str(self.root)]
        return ["worker", f"127.0.0.1:{self.port}", "--no-nanny", "--nthreads=1", *folder]

    def _environment_of(self, name: str) -> dict[str, str]:
        """Return the environment of this process."""
        return self._environment
