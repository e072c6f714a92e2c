"""A real Prefect server on PostgreSQL and real workers, as processes that a test may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from infra.fleet import LEASES
from testbed.postgres import Postgres
from testbed.processes import end, free_ports, spawned, wait_for

__all__ = ["PROJECT", "Prefect", "fleet"]

PROJECT = Path(__file__).parents[1]
START_SECONDS = 600.0  # it takes fifteen on an idle machine


class Prefect:
    """A server on `database`; keeps its port when killed and started again.

    `environment` is that of its clients; it holds `also` as well.
    """

    def __init__(
        self, root: Path, database: Postgres, also: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}/api"
        own = {
            "PREFECT_HOME": str(root / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_DATABASE_CONNECTION_URL": database.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(PROJECT),
        }
        self.environment = {**os.environ, **own, **(also or {})}
        self._server: list[subprocess.Popen[bytes]] = []  # one, while it runs
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the server and wait until it answers."""
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        self._server.append(self._run("server", "server", "start", *address))

        def failure() -> str:
            return f"Prefect's server does not start:\n{self.log('server')}"

        wait_for(self._server, self._healthy, START_SECONDS, failure)

    def start_worker(self) -> None:
        """Start a worker of the pool `segmint`, which runs each flow run in its own process."""
        pool = ("--pool", "segmint", "--type", "process")
        self._workers.append(self._run("worker", "worker", "start", *pool))

    def command(self, program: str, *words: str, folder: Path = PROJECT) -> str:
        """Return what `prefect` or `segmint`, as installed beside this Python, prints."""
        command: list[str | Path] = [Path(sys.executable).with_name(program), *words]
        done = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill(self) -> None:
        """Kill the server."""
        end(self._server, signal.SIGKILL)

    def kill_workers(self) -> None:
        """Kill all workers and the runs that they started."""
        end(self._workers, signal.SIGKILL)

    def stop(self) -> None:
        """Kill workers and server."""
        self.kill_workers()
        self.kill()

    def log(self, name: str) -> str:
        """Return the last 4000 characters of the log of `server` or `worker`."""
        return (self.root / f"{name}.log").read_text(errors="replace")[-4000:]

    def _run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", *words]
        return spawned(command, self.root / f"{name}.log", cwd=PROJECT, env=self.environment)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Prefect]:
    """The running server, without workers. A test that stops it starts it again."""
    server = Prefect(tmp_path_factory.mktemp("prefect"), postgres)
    server.start()
    yield server
    server.stop()
