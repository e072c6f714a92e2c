"""Other users of the machine can reach the ports of `dask-local`, and cannot run code in it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.machine import OpenFolderError, own_folder
from testbed.fleet import PROJECT

pytestmark = pytest.mark.server

# In a process of its own, because Dask leaves sockets open and Python warns of them.
CLUSTER = """
import json, os, sys
from distributed import Client, SpecCluster
from infra.clusters import task_runner
from infra.settings import ComputeSettings

if __name__ == "__main__":
    runner = task_runner(ComputeSettings(runner="dask-local", workers=1))
    with SpecCluster(**runner.cluster_kwargs) as cluster, Client(cluster) as client:
        client.wait_for_workers(1)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        folders = [each["local_directory"] for each in workers.values()]
        addresses = [cluster.scheduler_address, *workers]
        addresses += [each["nanny"] for each in workers.values()]
        pickled = client.submit(os.getuid).result() == os.getuid()
        print(json.dumps([pickled, addresses, folders, os.getpid()]), flush=True)
        sys.stdin.read()
"""
# As Dask's own client, without Prefect: somebody else does not have this project.
STRANGER = """
import asyncio, os, sys
from distributed import Client, Security
from distributed.core import rpc
from distributed.protocol.pickle import dumps

def attack(proof):
    open(proof, "w").write(str(os.getuid()))

async def run_on(address, proof, security):
    connection = rpc(address, connection_args=security.get_connection_args("client"))
    async with connection as server:
        await server.run(function=dumps(attack), args=dumps((proof,)))

if __name__ == "__main__":
    kind, address, proof, key = sys.argv[1:]
    security = Security.temporary() if key == "own-key" else Security()
    if os.getuid() == 0:
        os.setuid(65534)  # nobody
    if kind == "client":
        with Client(address, security=security, timeout=10) as client:
            client.submit(attack, proof).result(timeout=10)
    else:
        asyncio.run(asyncio.wait_for(run_on(address, proof, security), 10))
"""


class Cluster:
    """What a local cluster says of itself: addresses of scheduler, worker and nanny, folders."""

    def __init__(self, line: str) -> None:
        works, self.addresses, self.folders, self.pid = json.loads(line)
        assert works


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    yield Cluster(next(line for line in process.stdout if line.startswith("[")))
    process.stdin.close()
    process.stdout.close()
    process.wait()


@pytest.fixture
def proof() -> Iterator[Path]:
    """A file that the attack would write, in a folder that everybody may write into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder) / "proof"


def attack(address: str, proof: Path, kind: str, key: str = "no-key") -> bool:
    """Let a stranger try to write the file `proof`; return whether it exists."""
    command: list[str | Path] = [sys.executable, "-c", STRANGER, kind, address, proof, key]
    subprocess.run(command, capture_output=True, cwd="/")
    return proof.exists()


@pytest.mark.parametrize("protocol", ["tcp", "tls", "tls own-key"])
@pytest.mark.parametrize("server", [0, 1, 2], ids=["scheduler", "worker", "nanny"])
def test_a_stranger_runs_no_code(server: int, protocol: str, cluster: Cluster, proof: Path) -> None:
    scheme, _, key = protocol.partition(" ")
    address = cluster.addresses[server].replace("tls", scheme)
    assert not attack(address, proof, "rpc" if server else "client", key or "no-key")


def test_nothing_else_listens_but_a_page_that_says_all_is_well(cluster: Cluster) -> None:
    family = psutil.Process(cluster.pid)
    ports = {
        (found.laddr.ip, found.laddr.port)
        for process in (family, *family.children(recursive=True))
        for found in process.net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    }
    assert {ip for ip, _ in ports} == {"127.0.0.1"}
    encrypted = {int(address.rpartition(":")[2]) for address in cluster.addresses}
    pages = {port for _, port in ports} - encrypted
    for port in pages:
        assert page(port, "/health") == 200
        for path in ("/info/main/workers.html", "/json/counts.json", "/metrics", "/api/v1", "/"):
            assert page(port, path) == 404


def page(port: int, path: str) -> int:
    """Return the status of a page."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return int(connection.recv(100).split()[1])


def test_workers_import_and_unpickle_from_a_folder_of_their_user_alone(cluster: Cluster) -> None:
    """Dask's default, /tmp/dask-scratch-space, may be made by any user before."""
    for folder in cluster.folders:
        above = [
            path.stat() for path in Path(folder).parents if path.is_relative_to(own_folder(""))
        ]
        assert above and all(found.st_uid == os.getuid() for found in above)
        assert above[-1].st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["open", "link", "another user's"])
def test_a_folder_that_somebody_made_first_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"segmint-{os.getuid()}"
    target: Any = folder
    if kind == "link":
        target = tmp_path / "elsewhere"
        folder.symlink_to(target)
    target.mkdir(mode=0o700)
    if kind == "open":
        target.chmod(0o777)
    if kind == "another user's":
        if os.getuid():
            pytest.skip("only root can make another user's folder")
        os.chown(folder, 65534, 65534)
    with pytest.raises(OpenFolderError, match="remove it, or set TMPDIR"):
        own_folder("dask")
