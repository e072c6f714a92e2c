"""Another real S3 server: Ceph's object gateway with one monitor and one storage daemon, on free
ports of 127.0.0.1.

Debian 12's packages (66 MB) are downloaded and unpacked once below `out/cache`; nothing is
installed and no root is needed. It starts in about ten seconds. Its `If-None-Match: *` is atomic,
but ignored for uploads in several parts.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from testbed.cache import cache_folder, made_once
from testbed.processes import answers, end, free_ports, spawned, wait_for
from testbed.swift import S3Server

__all__ = ["Ceph"]

VERSION = "16.2.15"
CACHE = cache_folder(f"ceph-{VERSION}")
PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
FSID = "11111111-2222-4333-8444-555555555555"
OSD = "22222222-2222-4333-8444-555555555555"
START_SECONDS = 120.0  # it takes ten on an idle machine

# One replica. The daemons use no keys; without keys the gateway's secure connections loop, hence
# `crc`.
CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = true
ms mon client mode = crc
ms client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
plugin dir = {tree}/usr/lib/x86_64-linux-gnu/ceph
erasure code dir = {tree}/usr/lib/x86_64-linux-gnu/ceph/erasure-code
osd class dir = {tree}/usr/lib/x86_64-linux-gnu/rados-classes
run dir = {root}
admin socket = {root}/$name.asok
pid file = {root}/$name.pid
log file = {root}/$name.log
crash dir = {root}
mon cluster log file = {root}/cluster.log
keyring = {root}/keyring
[mon]
mon data = {root}/mon
mon data avail crit = 1
mon initial members = a
paxos propose interval = 0.05
paxos min wait = 0.01
mon osd min up ratio = 0
[osd]
osd data = {root}/osd
osd objectstore = bluestore
bluestore block size = 10737418240
bluestore fsck on mount = false
osd memory target = 939524096
osd class load list = *
osd class default list = *
osd mclock skip benchmark = true
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {root}/rgw
rgw enable usage log = false
rgw run sync thread = false
rgw dns name = localhost
rgw relaxed region enforcement = true
"""


class Ceph(S3Server):
    """One Ceph below `root`; keeps its data and its port when stopped, killed and started again."""

    access_key = "citest"
    secret_key = "cisecret"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = _unpacked()
        self.port, v2, v1 = free_ports(3)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._daemons: list[subprocess.Popen[bytes]] = []
        for name in ("mon", "osd", "rgw"):
            (root / name).mkdir(parents=True)
        (root / "keyring").touch()
        filled = CONF.format(fsid=FSID, v2=v2, v1=v1, tree=self.tree, root=root, port=self.port)
        (root / "ceph.conf").write_text(filled)
        self._address = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"

    def start(self) -> None:
        """Start the daemons and wait until the gateway answers.

        The first start makes the cluster and its user.
        """
        fresh = not any((self.root / "osd").iterdir())
        if fresh:
            monmap = self.root / "monmap"
            options = ("--create", "--fsid", FSID, "--addv", "a", self._address)
            self._run("monmaptool", *options, monmap)
            self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a")
        if fresh:
            self._run("ceph", "osd", "new", OSD, "0")
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", OSD)
        self._spawn("ceph-osd", "-i", "0")
        self._spawn("radosgw", "-n", "client.rgw")
        wait_for(
            self._daemons,
            lambda: answers(self.port),
            START_SECONDS,
            lambda: f"Ceph does not start:\n{self._log()}",
        )
        if fresh:
            keys = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
            user = ("user", "create", "--uid=ci", "--display-name=ci", *keys)
            self._run("radosgw-admin", "-n", "client.rgw", *user)

    def stop(self) -> None:
        """Shut the daemons down, the gateway first: it would wait for ever for the others."""
        while self._daemons:
            end([self._daemons.pop()], signal.SIGTERM)

    def kill(self) -> None:
        """Kill the daemons."""
        end(self._daemons, signal.SIGKILL)

    @property
    def _environment(self) -> dict[str, str]:
        libraries = (
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu/ceph",
            "lib/x86_64-linux-gnu",
            "usr/lib/ceph",
        )
        found = {
            "LD_LIBRARY_PATH": ":".join(f"{self.tree}/{folder}" for folder in libraries),
            "PYTHONPATH": f"{self.tree}/usr/lib/python3/dist-packages",
            "CEPH_CONF": str(self.root / "ceph.conf"),
        }
        return {**os.environ, **found}

    def _spawn(self, program: str, *arguments: str) -> None:
        command: list[str | Path] = [self.tree / "usr/bin" / program, *arguments, "-f"]
        self._daemons.append(spawned(command, self.root / "daemons.out", env=self._environment))

    def _run(self, program: str, *arguments: str | Path) -> None:
        command: list[str | Path] = [self.tree / "usr/bin" / program, *arguments]
        done = subprocess.run(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            self.kill()
            raise RuntimeError(
                f"{program} {arguments}: {done.stderr.decode(errors='replace')[-2000:]}"
            )

    def _log(self) -> str:
        return (self.root / "daemons.out").read_text(errors="replace")[-2000:]


def _unpacked() -> Path:
    """Return the folder with the unpacked packages; the first process that calls makes it."""
    debs, lists, tree = (CACHE / name for name in ("debs", "lists", "tree"))

    def make() -> None:
        for folder in (debs, lists):
            (folder / "partial").mkdir(parents=True, exist_ok=True)
        folders = {"Dir::State::lists": lists, "Dir::Cache": CACHE, "Dir::Cache::archives": debs}
        own = [f"-o{name}={folder}" for name, folder in folders.items()]
        own.append("-oDebug::NoLocking=1")
        subprocess.run(["apt-get", "-qq", *own, "update"], check=True)
        wanted = ["install", "--download-only", "--no-install-recommends", *PACKAGES]
        subprocess.run(["apt-get", "-qq", *own, *wanted], check=True)
        for package in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg", "-x", package, tree], check=True)

    made_once(CACHE, make)
    return tree
