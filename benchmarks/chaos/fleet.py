"""The servers that a night of the benchmark runs on, and a Dask cluster that restarts what died.

Prefect's server on PostgreSQL, set up by `segmint setup` and `prefect deploy --all`; a Prefect
worker; Swift with its devices on a small file system of their own, behind a gateway; a Dask
scheduler and two workers.
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
from infra.sources import ALLOWED
from testbed.dasks import Dask
from testbed.fleet import Prefect
from testbed.postgres import Postgres
from testbed.processes import wait_until
from testbed.swift import Swift

__all__ = ["Fleet", "KeptDask"]

DISK = "512m"  # size of the file system of Swift's devices, if this user may mount one
REPLACED_SECONDS = 1.0  # until a dead scheduler or worker is replaced
START_SECONDS = 300.0
_DASK = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "300 s",  # as in infra/compose
    # Dask's default is 5 minutes; a frozen worker is given up sooner
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60 s",
    # Dask's default is 3; a poisoned shard is given up sooner
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
}


class KeptDask(Dask):
    """A scheduler and two workers that log what they do.

    A process that ends is started again, as Docker, Kubernetes or systemd would.
    """

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        super().__init__(root, environment, workers=2)
        self._environment |= {**_DASK, witness.LOG: str(self.log), witness.POISON: str(self.poison)}
        self._also: dict[str, Mapping[str, str]] = {}
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def log(self) -> Path:
        """The file in which workers log what they do."""
        return self.root / "shards.log"

    @property
    def poison(self) -> Path:
        """The file that names the poisoned shard."""
        return self.root / "poison"

    def start(self) -> None:
        """Start all three processes, and restart each that ends."""
        super().start()
        self._keeper.start()

    def stop(self) -> None:
        """Stop them for good."""
        self._stopped.set()
        self._keeper.join()
        super().stop()

    def replace(self, worker: str, environment: Mapping[str, str]) -> None:
        """Restart a worker with this in its environment from now on."""
        self._also[worker] = dict(environment)
        self.signal(worker, signal.SIGTERM)

    def _words(self, name: str) -> list[str]:
        module = witness if name in self.workers else flows.nightly
        return [*super()._words(name), "--preload", module.__name__]

    def _environment_of(self, name: str) -> dict[str, str]:
        return {**super()._environment_of(name), **self._also.get(name, {})}

    def _keep(self) -> None:
        while not self._stopped.wait(0.1):
            ended = [name for name, each in self._running.items() if each.poll() is not None]
            for name in ended:
                if not self._stopped.wait(REPLACED_SECONDS):
                    self._start(name)


class Fleet:
    """All servers and workers; `with Fleet(folder, seed) as fleet` starts and stops them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.folder("postgres")
        self.database = Postgres(self.folder("postgres"))
        self.swift = Swift(self.folder("swift"))
        self.front = Front(self.swift.ports["proxy"], seed)
        bucket = {**self.swift.environment, "AWS_ENDPOINT_URL": self.front.endpoint}
        anywhere = {ALLOWED: "s3://, dask://"}  # each night has a bucket of its own
        self.prefect = Prefect(self.folder("prefect"), self.database, {**bucket, **anywhere})
        self.dask = KeptDask(self.folder("dask"), self.prefect.environment)
        self._stack = ExitStack()

    @cached_property
    def clock(self) -> Path:
        """A library that sets the clock of a process wrong, built by this machine's C compiler."""
        library = self.root / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        return library

    def folder(self, name: str) -> Path:
        """Return the folder of that name below the root, made if it does not exist."""
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return self.root / name

    def __enter__(self) -> Fleet:
        with ExitStack() as stack:
            self.disk = stack.enter_context(Disk(self.swift.root / "devices"))
            for server in (self.database, self.swift, self.front, self.dask, self.prefect):
                stack.callback(server.stop)
                server.start()
            self.prefect.command("segmint", "setup", "--without-password")
            self.prefect.command("prefect", "--no-prompt", "deploy", "--all")
            self.prefect.start_worker()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def api(self, method: str, path: str, **given: Any) -> Any:
        """Return what Prefect's server answers; None if it does not answer."""
        with suppress(httpx.HTTPError):
            answer = httpx.request(
                method, f"{self.prefect.url}/{path}", json=given or None, timeout=20.0
            )
            if answer.is_success:
                return answer.json()
        return None

    def accepts(self, method: str, path: str, given: Any) -> bool:
        """Send something; return whether the server accepted it."""
        url = f"{self.prefect.url}/{path}"
        with suppress(httpx.HTTPError):
            return httpx.request(method, url, json=given, timeout=20.0).is_success
        return False

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """Return what the server answers, as soon as it does."""
        return wait_until(lambda: self.api(method, path, **given), START_SECONDS)

    def process_of(self, flow_run: str) -> psutil.Process | None:
        """Return the current process of a flow run; None if it has none."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (
                    process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run
                    and "python" in process.name()
                ):
                    return process
        return None


class Disk:
    """A small file system at `folder`, if this user may mount one; it can be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / "filler"
        self.is_small = os.geteuid() == 0

    def __enter__(self) -> Disk:
        if self.is_small:
            options = ["-t", "tmpfs", "-o", f"size={DISK}"]
            mount: list[str | Path] = ["mount", *options, "chaos", self._folder]
            self.is_small = subprocess.run(mount, capture_output=True).returncode == 0
            (self._folder / "d1").mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_small:
            subprocess.run(["umount", "--lazy", self._folder], check=True)

    def fill(self) -> None:
        """Fill it to the last byte."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 20)):
                pass
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 9)):
                pass

    def free(self) -> None:
        """Free what `fill` took."""
        self._filler.unlink()
