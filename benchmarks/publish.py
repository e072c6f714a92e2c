"""Publications racing: do all survive, in one order, with none half seen?

Twenty processes publish at once into one store, round after round: versions of their own, one
version together, and different content under one name, of which one may win. Every other round they
wait for each other between the shards and the publication. Readers look on all the time: what they
saw may neither vanish nor change, nothing may come before it, and every version they see is
verified. In the end all is copied out of the store, and a checker that knows the layout but none of
the store's code, and reads samples with plain zarr, compares it with what the publishers were told.
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
from benchmarks.published import SHARDS, Told, check, copied, labels, table
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

RACERS, READERS = 20, 2
OWN, TWINS = (
    8,
    6,
)  # racers with a version of their own, and with the same one; the rest are rivals for a name
ROUNDS = {"quick": 2, "default": 50, "full": 500}
# after which a fresh store is taken, so that readers need not read 500 manifests at every look
STORE_ROUNDS = 10
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
    """Race in a place; return how often anything was not as claimed, and print it."""
    found: list[str] = []
    begun, rounds = time.monotonic(), ROUNDS[size]
    with opened() as fresh, Race() as race:
        for first in range(0, rounds, STORE_ROUNDS):
            store = fresh()
            numbers = range(first, min(first + STORE_ROUNDS, rounds))
            with watched(store) as seen:
                told = [one for number in numbers for one in race.round(store, number)]
            copy = copied(store)
            found += [*seen, *(one for one in told if isinstance(one, str))]
            found += check(copy, [one for one in told if isinstance(one, Told)])
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
    """Processes that wait for a round and publish at once."""

    def __enter__(self) -> Race:
        self._go, self._outcomes = (
            _PROCESSES.Barrier(RACERS, timeout=PATIENCE),
            _PROCESSES.SimpleQueue(),
        )
        self._jobs = [_PROCESSES.SimpleQueue() for _ in range(RACERS)]
        self._racers = [
            started(compete, racer, jobs, self._go, self._outcomes)
            for racer, jobs in enumerate(self._jobs)
        ]
        return self

    def round(self, store: Store, number: int) -> list[Told | str]:
        """What each publisher was told; text if it failed."""
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
    """A racer's life."""
    while True:
        store, number = jobs.get()
        go.wait()
        try:
            outcomes.put(publish(store, racer, number, go.wait if number % 2 else lambda: None))
        except Exception as error:
            outcomes.put(f"round {number}, racer {racer} failed: {type(error).__name__}: {error}")


def publish(store: Store, racer: int, number: int, ready: Callable[[], object]) -> Told:
    """Write the shards, wait for the others if so told, publish."""
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
        return Told(version, content, None)
    return Told(version, content, manifest.number)


def entry(racer: int, number: int) -> tuple[str, int]:
    """Version and content that a racer publishes in a round."""
    if racer < OWN:
        return f"round-{number}-own-{racer}", racer
    return (
        (f"round-{number}-twins", OWN) if racer < OWN + TWINS else (f"round-{number}-rivals", racer)
    )


@contextmanager
def watched(store: Store) -> Iterator[list[str]]:
    """Readers look on meanwhile; what they saw that may not be is in the list afterwards, empty
    before.
    """
    stop, found, seen = _PROCESSES.Event(), _PROCESSES.SimpleQueue(), list[str]()
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
    print(
        f"  {looks} looks of {READERS} readers at up to {max(len(order) for _, order, _ in sights)} versions"
    )
    seen += [violation for _, _, violations in sights for violation in violations]
    if any(
        order != sights[0][1] for _, order, _ in sights
    ):  # each looked once more after the last publication
        seen.append("readers end with different orders")


def watch(store: Store, stop: Any, found: Any) -> None:
    """A reader's life: number of looks, the order in the end, violations."""
    looks, before, wrong, last = 0, list[tuple[str, str]](), list[str](), False
    while not last:
        last = stop.is_set()
        try:
            manifests = list_versions(store)
            listed = [(manifest.version, manifest.sha256) for manifest in manifests]
            if listed[: len(before)] != before:
                wrong.append(
                    f"saw {[name for name, _ in before]}, then {[name for name, _ in listed]}, or changed"
                )
            for manifest in (one for one in manifests if (one.version, one.sha256) not in before):
                if (
                    FileSum.of(read_version(store, manifest.version).to_bytes()).sha256
                    != manifest.sha256
                ):
                    wrong.append(f"{manifest.version} changed at once")
                wrong += [
                    f"half seen: {problem}" for problem in verify_version(store, manifest.version)
                ]
            looks, before = looks + 1, listed
        except Exception as error:
            wrong.append(f"a reader failed: {type(error).__name__}: {error}")
    found.put((looks, before, wrong))


if __name__ == "__main__":
    run("publish", main)
