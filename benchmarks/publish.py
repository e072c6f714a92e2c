"""Do concurrent publications all survive, in one order, and does no reader see one in part?

Twenty processes publish into one store at once, round after round: versions of their own, one
version together, and different content under one name, of which one may win. In every other round
they wait for each other between the shards and the publication. Meanwhile readers list the store.
What they saw may neither vanish nor change, nothing may be listed before it, and they verify every
version they see. At the end everything is copied out of the store. A checker compares the copy with
the publishers' results; it uses plain zarr and none of the store's code.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.published import SHARDS, Published, check, copied, labels, table
from infra.store import (
    PublishedError,
    Store,
    list_versions,
    publish_version,
    read_version,
    verify_version,
    write_shard,
)
from infra.store.seal import FileSum

RACERS = 20
READERS = 2
OWN = 8  # racers that publish versions of their own
TWINS = 6  # racers that publish one version together; the rest publish other content under one name
ROUNDS = {"quick": 2, "default": 50, "full": 500}
STORE_ROUNDS = 10  # rounds per store: more would have readers read 500 manifests at every look
PATIENCE = 600.0  # seconds that one round may take
_PROCESSES = multiprocessing.get_context("forkserver")


def main(size: Size) -> list[Claim]:
    _PROCESSES.set_forkserver_preload(["infra.store", "pandas", "zarr"])
    return [
        Claim(f"violations, {place}", violations(place, opened, size), "== 0")
        for place, opened in places(size)
    ]


def places(size: Size) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "folder", folder
    if size != "quick":
        from testbed.ceph import Ceph
        from testbed.swift import Swift

        yield "Swift", lambda: served(Swift)
        yield "Ceph RGW", lambda: served(Ceph)


@contextmanager
def folder() -> Iterator[Callable[[], Store]]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as root:
        yield lambda: Store.open(tempfile.mkdtemp(dir=root))


@contextmanager
def served(server_class: Any) -> Iterator[Callable[[], Store]]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as root, ExitStack() as stack:
        server = server_class(Path(root, "server").resolve())
        stack.callback(server.stop)
        server.start()

        def fresh() -> Store:
            bucket = server.new_bucket()
            return Store.open(f"{bucket.url}/store", bucket.options)

        yield fresh


def violations(place: str, opened: Callable[[], Any], size: Size) -> int:
    """Race in new stores of one kind; print the violations and return their number."""
    found: list[str] = []
    begun = time.monotonic()
    rounds = ROUNDS[size]
    with opened() as fresh, Race() as race:
        for first in range(0, rounds, STORE_ROUNDS):
            store = fresh()
            numbers = range(first, min(first + STORE_ROUNDS, rounds))
            with watched(store) as seen:
                results = [one for number in numbers for one in race.round(store, number)]
            copy = copied(store)
            found += [*seen, *(one for one in results if isinstance(one, str))]
            found += check(copy, [one for one in results if isinstance(one, Published)])
            shutil.rmtree(copy.parent)
            print(
                f"{place}: round {numbers[-1] + 1} of {rounds}, {time.monotonic() - begun:.0f} s, "
                f"{len(found)} violations",
                flush=True,
            )
    for violation in found:
        print(f"  {place}: {violation}")
    return len(found)


class Race:
    """Processes that wait for a round and then publish at once."""

    def __enter__(self) -> Race:
        self._go = _PROCESSES.Barrier(RACERS, timeout=PATIENCE)
        self._outcomes: Any = _PROCESSES.SimpleQueue()
        self._jobs: list[Any] = [_PROCESSES.SimpleQueue() for _ in range(RACERS)]
        self._racers = [
            started(compete, racer, jobs, self._go, self._outcomes)
            for racer, jobs in enumerate(self._jobs)
        ]
        return self

    def round(self, store: Store, number: int) -> list[Published | str]:
        """Return each publisher's result; a text if it failed."""
        for jobs in self._jobs:
            jobs.put((store, number))
        return [self._outcomes.get() for _ in range(RACERS)]

    def __exit__(self, *_: object) -> None:
        for racer in self._racers:
            racer.kill()
            racer.join()


def started(target: Callable[..., None], *given: Any) -> ForkServerProcess:
    process = _PROCESSES.Process(target=target, args=given, daemon=True)
    process.start()
    return process


def compete(racer: int, jobs: Any, go: Any, outcomes: Any) -> None:
    """Publish in every round that `jobs` gives, until killed."""
    while True:
        store, number = jobs.get()
        go.wait()
        try:
            outcomes.put(publish(store, racer, number, go.wait if number % 2 else lambda: None))
        except Exception as error:
            outcomes.put(f"round {number}, racer {racer} failed: {type(error).__name__}: {error}")


def publish(store: Store, racer: int, number: int, ready: Callable[[], object]) -> Published:
    """Write the shards, call `ready`, which may wait for the others, and publish."""
    version, content = entry(racer, number)
    shards = [f"versions/{version}/data/{shard:05d}-{content}" for shard in range(SHARDS)]
    try:
        try:
            for shard, path in enumerate(shards):
                write_shard(store, path, {"label": labels(number, content, shard)}, table())
        finally:
            ready()
        card = f"content {content}".encode()
        manifest = publish_version(
            store, version, shards=shards, meta={"content": content}, files={"card.md": card}
        )
    except PublishedError:
        return Published(version, content, None)
    return Published(version, content, manifest.number)


def entry(racer: int, number: int) -> tuple[str, int]:
    """Return version and content that a racer publishes in a round."""
    if racer < OWN:
        return f"round-{number}-own-{racer}", racer
    if racer < OWN + TWINS:
        return f"round-{number}-twins", OWN
    return f"round-{number}-rivals", racer


@contextmanager
def watched(store: Store) -> Iterator[list[str]]:
    """Run readers meanwhile; the list holds their violations once they have ended."""
    stop = _PROCESSES.Event()
    found: Any = _PROCESSES.SimpleQueue()
    seen: list[str] = []
    readers = [started(watch, store, stop, found) for _ in range(READERS)]
    try:
        yield seen
        stop.set()
        sights = [found.get() for _ in readers]
    finally:
        for reader in readers:
            reader.kill()
            reader.join()
    looks = sum(number for number, _, _ in sights)
    most = max(len(order) for _, order, _ in sights)
    print(f"  {looks} looks of {READERS} readers at up to {most} versions")
    seen += [violation for _, _, violations in sights for violation in violations]
    # each has looked once more after the last publication
    if any(order != sights[0][1] for _, order, _ in sights):
        seen.append("readers end with different orders")


def watch(store: Store, stop: Any, found: Any) -> None:
    """Read until `stop`; put number of looks, last order and violations into `found`."""
    looks = 0
    before: list[tuple[str, str]] = []
    wrong: list[str] = []
    last = False
    while not last:
        last = stop.is_set()
        try:
            before = look(store, before, wrong)
            looks += 1
        except Exception as error:
            wrong.append(f"a reader failed: {type(error).__name__}: {error}")
    found.put((looks, before, wrong))


def look(store: Store, before: list[tuple[str, str]], wrong: list[str]) -> list[tuple[str, str]]:
    """Return names and digests of the listed versions; check them against those seen `before`."""
    manifests = list_versions(store)
    listed = [(manifest.version, manifest.sha256) for manifest in manifests]
    if listed[: len(before)] != before:
        names = [[name for name, _ in versions] for versions in (before, listed)]
        wrong.append(f"saw {names[0]}, then {names[1]}, or changed content")
    for version, digest in listed:
        if (version, digest) not in before:
            if FileSum.of(read_version(store, version).to_bytes()).sha256 != digest:
                wrong.append(f"{version} changed at once")
            wrong += [f"seen in part: {problem}" for problem in verify_version(store, version)]
    return listed


if __name__ == "__main__":
    run("publish", main)
