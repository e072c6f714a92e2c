"""A real S3 server: OpenStack Swift with its S3 API, one node, one replica, on free ports of
127.0.0.1.

It is installed once, by pip, into a virtual environment of its own below `out/cache`, since its
requirements differ from ours. It needs neither root nor memcached, only a file system with user
attributes (ext4, xfs, recent tmpfs). What it acknowledged survives `kill`. Its `If-None-Match: *`
is not atomic: do not test races for one key with it.
"""

from __future__ import annotations

import getpass
import signal
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed.cache import cache_folder, packages
from testbed.processes import answers, end, free_ports, spawned, wait_for

__all__ = ["Bucket", "S3Server", "Swift", "bucket", "s3"]

VERSION = "2.38.3"
CACHE = cache_folder(f"swift-{VERSION}")
ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
REGION = "us-east-1"
START_SECONDS = 300.0  # it takes two on an idle machine

COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {root}
log_level = WARNING
log_address = {root}/no-syslog
log_udp_host =
"""
BACKEND = """devices = {root}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0

[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
node_timeout = 60
container_update_timeout = 60
"""  # the last line: listings are up to date when a PUT answers
PROXY = """
[pipeline:main]
pipeline = {filters} proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
node_timeout = 60

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
"""
FILTERS = "catch_errors gatekeeper listing_formats bulk s3api tempauth slo versioned_writes"
PLAIN_FILTERS = ("catch_errors", "gatekeeper", "listing_formats", "bulk", "slo", "versioned_writes")
SWIFT_CONF = """[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests

[storage-policy:0]
name = one
default = yes

[swift-constraints]
max_header_size = 16384
"""
RINGS = """
import sys
from swift.common.ring import RingBuilder
root, *ports = sys.argv[1:]
for kind, port in zip(("account", "container", "object"), map(int, ports)):
    ring = RingBuilder(4, 1, 0)
    ring.add_dev({"region": 1, "zone": 1, "weight": 1.0, "device": "d1", "meta": "",
                  "ip": "127.0.0.1", "port": port,
                  "replication_ip": "127.0.0.1", "replication_port": port})
    ring.rebalance()
    ring.get_ring().save(f"{root}/{kind}.ring.gz")
"""


@dataclass(frozen=True)
class Bucket:
    """A fresh bucket: its URL, and the options with which fsspec opens it."""

    url: str
    options: dict[str, Any]


class S3Server:
    """Address and credentials of an S3 server on this machine."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a process opens the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    @property
    def options(self) -> dict[str, Any]:
        """The same, as options of s3fs."""
        return {
            "key": self.access_key,
            "secret": self.secret_key,
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": REGION},
        }

    def new_bucket(self) -> Bucket:
        """Make a bucket with a new name; the content of a deleted bucket could reappear in it."""
        import s3fs  # takes half a second, which tests without a bucket need not wait

        name = f"b-{uuid.uuid4().hex}"
        s3fs.S3FileSystem(**self.options).mkdir(name)
        return Bucket(f"s3://{name}", self.options)


class Swift(S3Server):
    """One Swift below `root`; keeps its data and ports when stopped, killed and started again."""

    access_key = ACCESS_KEY
    secret_key = SECRET_KEY

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = packages(CACHE, f"swift=={VERSION}") / "python"
        kinds = ("proxy", "account", "container", "object")
        self.ports = dict(zip(kinds, free_ports(4), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['proxy']}"
        self._servers: list[subprocess.Popen[bytes]] = []
        self._configure()

    def start(self) -> None:
        """Start the servers and wait until they answer."""
        for kind in self.ports:
            program = self.python.parent / f"swift-{kind}-server"
            command = [self.python, program, self.root / f"{kind}-server.conf"]
            self._servers.append(spawned(command, self.root / f"{kind}.log"))
        wait_for(self._servers, lambda: not self._silent(), START_SECONDS, self._logs)

    def stop(self) -> None:
        """Shut the servers down."""
        end(self._servers, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the servers."""
        end(self._servers, signal.SIGKILL)

    def _silent(self) -> list[str]:
        return [kind for kind, port in self.ports.items() if not answers(port)]

    def _logs(self) -> str:
        logs = {
            kind: (self.root / f"{kind}.log").read_text(errors="replace")[-2000:]
            for kind in self._silent()
        }
        return "".join(
            f"Swift's {kind} server does not start:\n{log}" for kind, log in logs.items()
        )

    def _configure(self) -> None:
        (self.root / "devices" / "d1").mkdir(parents=True)
        (self.root / "swift.conf").write_text(SWIFT_CONF)
        for kind, port in self.ports.items():
            rest = PROXY + "".join(
                f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN_FILTERS
            )
            text = COMMON + (rest if kind == "proxy" else BACKEND)
            user = getpass.getuser()
            filled = text.format(port=port, user=user, root=self.root, kind=kind, filters=FILTERS)
            (self.root / f"{kind}-server.conf").write_text(filled)
        ports = [str(self.ports[kind]) for kind in ("account", "container", "object")]
        subprocess.run([self.python, "-c", RINGS, self.root, *ports], check=True)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """The running server. A test that stops it starts it again."""
    server = Swift(tmp_path_factory.mktemp("swift"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3: Swift) -> Bucket:
    """A new bucket for one test."""
    return s3.new_bucket()
