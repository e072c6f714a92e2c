"""A real PostgreSQL, Debian's: one cluster below `root`, on a free port of 127.0.0.1.

It refuses to run as root, so root starts it as the user `postgres` of Debian's package.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.processes import answers, end, free_ports, spawned, wait_for

__all__ = ["Postgres", "postgres"]

USER = "postgres"
START_SECONDS = 300.0  # it takes one on an idle machine
SETTINGS = {
    "fsync": "on",
    "max_connections": "200",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}


class Postgres:
    """One cluster; keeps its data and its port when stopped, killed and started again."""

    def __init__(self, root: Path) -> None:
        self.root = root / "postgres"
        self.port = free_ports(1)[0]
        self._binaries = _installed()
        self._server: list[subprocess.Popen[bytes]] = []  # one, while it runs
        self._initialise()

    @property
    def url(self) -> str:
        """The address of the database for Prefect's server."""
        return f"postgresql+asyncpg://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        program = self._binaries / "postgres"
        command: list[str | Path] = [program, "-D", self.root, "-p", str(self.port), *settings]
        log = self.root.parent / "postgres.log"
        self._server.append(spawned(command, log, **_as_user()))
        wait_for(
            self._server,
            self._ready,
            START_SECONDS,
            lambda: f"PostgreSQL does not start:\n{log.read_text()}",
        )

    def stop(self) -> None:
        """Shut it down without waiting for its clients."""
        end(self._server, signal.SIGINT)

    def kill(self) -> None:
        """Stop it and its children as a power cut would."""
        end(self._server, signal.SIGKILL)

    def _ready(self) -> bool:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = [str(self._binaries / "pg_isready"), "--quiet", *address]
        return answers(self.port) and subprocess.run(command).returncode == 0

    def _initialise(self) -> None:
        self.root.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(self.root, USER, USER)
            self._open_parents()
        options = ["--auth=trust", "--encoding=UTF8", "--no-sync"]
        program = self._binaries / "initdb"
        command: list[str | Path] = [program, "-D", self.root, "-U", USER, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_as_user())

    def _open_parents(self) -> None:
        """Let other users enter our folders above the cluster; pytest's are closed to them."""
        for folder in self.root.parents:
            found = folder.stat()
            if found.st_uid == os.geteuid() and not found.st_mode & 0o001:
                folder.chmod(found.st_mode | 0o011)


def _as_user() -> dict[str, Any]:
    """Return the options of `subprocess` with which root starts what must not run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": USER, "group": USER, "extra_groups": [], "cwd": "/"}


def _installed() -> Path:
    """Return the folder of the newest installed version's programs."""
    programs = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    found = sorted(programs, key=lambda path: int(path.parts[4]))
    if not found:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The running database. A test that stops it starts it again."""
    database = Postgres(tmp_path_factory.mktemp("postgres"))
    database.start()
    yield database
    database.stop()
