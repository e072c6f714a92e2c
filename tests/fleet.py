"""A real Prefect server on a real PostgreSQL, and real workers, as processes that a test may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from infra.fleet import LEASES
from tests.postgres import Postgres
from tests.swift import free_ports

__all__ = ["PROJECT", "Prefect", "fleet", "wait_until"]

PROJECT = Path(__file__).parents[1]
START_SECONDS = 600.0  # it takes fifteen on an idle machine
Found = TypeVar("Found")


class Prefect:
    """A server on `database`; `environment` is what its clients need. Keeps its port when killed and started again."""

    def __init__(self, root: Path, database: Postgres, also: Mapping[str, str] | None = None) -> None:
        self.root, self.port = root, free_ports(1)[0]
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
        self._server: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._server = self._run("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        wait_until(self._healthy, START_SECONDS, lambda: f"Prefect's server does not start:\n{self.log('server')}")

    def start_worker(self) -> None:
        """Start a worker of our pool; it starts each run as a process of its own."""
        self._workers.append(self._run("worker", "worker", "start", "--pool", "segmint", "--type", "process"))

    def command(self, program: str, *words: str, folder: Path = PROJECT) -> str:
        """What `prefect` or `segmint`, as installed beside this Python, prints with this server."""
        command = [Path(sys.executable).with_name(program), *words]
        done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill(self) -> None:
        """Stop the server as a power cut would."""
        self._end([self._server], signal.SIGKILL)

    def kill_workers(self) -> None:
        """Stop all workers and the runs they started."""
        self._end(self._workers, signal.SIGKILL)
        self._workers.clear()

    def stop(self) -> None:
        """Stop everything."""
        self.kill_workers()
        self.kill()

    def log(self, name: str) -> str:
        """The end of what `server` or `worker` said."""
        return (self.root / f"{name}.log").read_text(errors="replace")[-4000:]

    def _run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *words],
                cwd=PROJECT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _end(
        self, processes: list[subprocess.Popen[bytes]] | list[subprocess.Popen[bytes] | None], number: int
    ) -> None:
        for process in filter(None, processes):
            os.killpg(process.pid, number)
            process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def wait_until(condition: Callable[[], Found], seconds: float, otherwise: Callable[[], str] = lambda: "") -> Found:
    """What `condition` returns once that is true; AssertionError with what `otherwise` says if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise() or f"still not so after {seconds:g} s"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Prefect]:
    """The running server, without workers. A test that stops it starts it again."""
    server = Prefect(tmp_path_factory.mktemp("prefect"), postgres)
    server.start()
    yield server
    server.stop()
