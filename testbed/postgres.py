"""A real PostgreSQL for tests: Debian's, one cluster below `root`, on a free port of 127.0.0.1.

It will not run as root, so root starts it as the user `postgres` that Debian's package makes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

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
    """One cluster, which keeps its data and its port when stopped, killed and started again."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root / "postgres", free_ports(1)[0]
        self._binaries = _installed()
        self._server: list[subprocess.Popen[bytes]] = []  # one, while it runs
        self._initialise()

    @property
    def url(self) -> str:
        """Where Prefect's server finds its database."""
        return f"postgresql+asyncpg://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [self._binaries / "postgres", "-D", self.root, "-p", str(self.port), *settings]
        log = self.root.parent / "postgres.log"
        self._server.append(spawned(command, log, **_as_user()))
        wait_for(
            self._server,
            self._ready,
            START_SECONDS,
            lambda: f"PostgreSQL does not start:\n{log.read_text()}",
        )

    def stop(self) -> None:
        """Stop it in good order, without waiting for its clients."""
        end(self._server, signal.SIGINT)

    def kill(self) -> None:
        """Stop it and its children as a power cut would."""
        end(self._server, signal.SIGKILL)

    def _ready(self) -> bool:
        asked = [
            self._binaries / "pg_isready",
            "--quiet",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        return answers(self.port) and subprocess.run(asked).returncode == 0

    def _initialise(self) -> None:
        self.root.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(self.root, USER, USER)
            for folder in self.root.parents:
                if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
                    folder.chmod(
                        folder.stat().st_mode | 0o011
                    )  # pytest's folders are closed to others
        command = [
            self._binaries / "initdb",
            "-D",
            self.root,
            "-U",
            USER,
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_as_user())


def _as_user() -> dict[str, object]:
    """How root starts what must not be root's."""
    return (
        {"user": USER, "group": USER, "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {}
    )


def _installed() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4])
    )
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
