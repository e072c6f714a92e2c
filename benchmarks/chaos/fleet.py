"""What a night of the benchmark runs on: the tests' servers, and a Dask cluster whose dead are
replaced.

Prefect's server on PostgreSQL with what `segmint setup` and `prefect deploy --all` make, a worker
of ours, Swift with its devices on a small file system of their own, a gateway in front of it, a
Dask scheduler and two workers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil

import flows.nightly
from benchmarks.chaos import witness
from benchmarks.chaos.front import Front
from testbed.dasks import Dask
from testbed.fleet import Prefect
from testbed.postgres import Postgres
from testbed.processes import wait_until
from testbed.swift import Swift

__all__ = ["Fleet", "KeptDask"]

DISK = "512m"  # that Swift's devices lie on, where this user may mount
REPLACED_SECONDS = 1.0  # until a dead scheduler or worker is replaced
START_SECONDS = 300.0
# as in infra/compose; and a worker that is not heard of for so long, of Dask's five minutes, is
# given up
_DASK = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "300 s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60 s",
    # of three: a poisoned shard is found out sooner
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
}


class KeptDask(Dask):
    """Two workers that tell what they do.

    What ends is started again, as Docker, Kubernetes or systemd would.
    """

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        super().__init__(root, environment, workers=2)
        self._environment |= {**_DASK, witness.LOG: str(self.log), witness.POISON: str(self.poison)}
        self._also: dict[str, Mapping[str, str]] = {}
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def log(self) -> Path:
        """Where workers tell what they do."""
        return self.root / "shards.log"

    @property
    def poison(self) -> Path:
        """Where it stands which shard kills."""
        return self.root / "poison"

    def start(self) -> None:
        """Start all three, and whatever ends from now on."""
        super().start()
        self._keeper.start()

    def stop(self) -> None:
        """Stop them for good."""
        self._stopped.set()
        self._keeper.join()
        super().stop()

    def replace(self, worker: str, environment: Mapping[str, str]) -> None:
        """Start a worker anew, with this in its environment from now on."""
        self._also[worker] = dict(environment)
        self.signal(worker, signal.SIGTERM)

    def _words(self, name: str) -> list[str]:
        module = witness if name in self.workers else flows.nightly
        return [*super()._words(name), "--preload", module.__name__]

    def _environment_of(self, name: str) -> dict[str, str]:
        return {**super()._environment_of(name), **self._also.get(name, {})}

    def _keep(self) -> None:
        while not self._stopped.wait(0.1):
            for name in [
                name for name, process in self._running.items() if process.poll() is not None
            ]:
                if not self._stopped.wait(REPLACED_SECONDS):
                    self._start(name)


class Fleet:
    """Everything, started; `with Fleet(folder, seed) as fleet`."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.folder("postgres")
        self.database = Postgres(self.folder("postgres"))
        self.swift = Swift(self.folder("swift"))
        self.front = Front(self.swift.ports["proxy"], seed)
        bucket = {**self.swift.environment, "AWS_ENDPOINT_URL": self.front.endpoint}
        self.prefect = Prefect(self.folder("prefect"), self.database, bucket)
        self.dask = KeptDask(self.folder("dask"), self.prefect.environment)
        self._stack = ExitStack()

    @cached_property
    def clock(self) -> Path:
        """A library that sets the clock of whoever loads it wrong, built by this machine's C
        compiler.
        """
        library, source = self.root / "clock.so", Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        return library

    def folder(self, name: str) -> Path:
        """A folder of that name below the root."""
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return self.root / name

    def __enter__(self) -> Fleet:
        with ExitStack() as stack:
            self.disk = stack.enter_context(Disk(self.swift.root / "devices"))
            for server in (self.database, self.swift, self.front, self.dask, self.prefect):
                stack.callback(server.stop)
                server.start()
            self.prefect.command("segmint", "setup")
            self.prefect.command("prefect", "--no-prompt", "deploy", "--all")
            self.prefect.start_worker()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def api(self, method: str, path: str, **given: Any) -> Any:
        """What Prefect's server answers; None if it does not."""
        with suppress(httpx.HTTPError):
            answer = httpx.request(
                method, f"{self.prefect.url}/{path}", json=given or None, timeout=20.0
            )
            if answer.is_success:
                return answer.json()
        return None

    def posts(self, path: str, given: Any) -> bool:
        """Whether the server took that."""
        with suppress(httpx.HTTPError):
            return httpx.post(f"{self.prefect.url}/{path}", json=given, timeout=20.0).is_success
        return False

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """What it answers once it does."""
        return wait_until(lambda: self.api(method, path, **given), START_SECONDS)

    def process_of(self, flow_run: str) -> psutil.Process | None:
        """The process that a flow run has right now."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (
                    process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run
                    and "python" in process.name()
                ):
                    return process
        return None


class Disk:
    """A small file system at `place`, if this user may mount one; it can be filled and freed."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._filler = place / "filler"
        self.is_small = os.geteuid() == 0

    def __enter__(self) -> Disk:
        if self.is_small:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", self._place]
            self.is_small = subprocess.run(mount, capture_output=True).returncode == 0
            (self._place / "d1").mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_small:
            subprocess.run(["umount", "--lazy", self._place], check=True)

    def fill(self) -> None:
        """Leave not a byte."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 20)):
                pass
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 9)):
                pass

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink()
