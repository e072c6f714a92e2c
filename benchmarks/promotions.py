"""Is the champion always the best checkpoint that was not withdrawn, whatever happens at once?

Four processes promote checkpoints of known mIoU and roll champions back, all at once. Every entry
of the log of champions is then checked against the one before it: it holds one change more and
forgets none, and its champion is the best that was not withdrawn. An operation is right if its
result is such an entry, and the last entry still knows of it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.claims import Claim, Size, run
from benchmarks.publish import folder, served, started
from infra.settings import Settings, StoreSettings
from infra.store import Store
from tasks.evaluate.measure import HITS, PREDICTED
from tasks.evaluate.stored import write_evaluation
from tasks.promote.champion import promote, roll_back

__all__ = ["FINGERPRINT", "Entry", "check_log", "prepare", "race", "settings_of"]

PROCESSES = 4
OPERATIONS = {"quick": 40, "default": 200, "full": 200}
ROLLBACKS = 4  # every so many operations of a process are a rollback
FIRST = 4  # checkpoints promoted before the others, so that every rollback leads somewhere
IMAGES = 8
PIXELS = 10_000  # of a class in an image, so that all checkpoints differ
CLASSES = ("background", "car")
FINGERPRINT = "a" * 64
_PROCESSES = multiprocessing.get_context("forkserver")

Entry = Mapping[str, Any]


def main(size: Size) -> list[Claim]:
    return [
        Claim(
            f"operations that leave the best as champion, {place}",
            right(place, opened, OPERATIONS[size]),
            f"== {OPERATIONS[size]}",
        )
        for place, opened in places(size)
    ]


def places(size: Size) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "folder", folder
    if size != "quick":
        from testbed.swift import Swift

        yield "Swift", lambda: served(Swift)


def right(place: str, opened: Callable[[], Any], operations: int) -> int:
    """Race in a new store; print what is wrong, and return the number of right operations."""
    begun = time.monotonic()
    with opened() as fresh:
        number, wrong = race(fresh(), operations)
    seconds = time.monotonic() - begun
    print(f"{place}: {number} of {operations} right, {seconds:.0f} s", flush=True)
    for violation in wrong:
        print(f"  {place}: {violation}")
    return number


def race(store: Store, operations: int) -> tuple[int, list[str]]:
    """Return how many operations of all processes at once are right, and what is wrong."""
    names = [f"c{number:03d}" for number in range(FIRST + operations)]
    ranks = np.random.default_rng(0).permutation(len(names))
    miou = dict(zip(names, (0.2 + 0.6 * ranks / len(names)).tolist(), strict=True))
    with ThreadPoolExecutor(store.place.writers) as pool:
        list(pool.map(lambda name: prepare(store, name, miou[name]), names))
    for name in names[:FIRST]:
        promote.fn(settings_of(store), name, FINGERPRINT)
    results = _at_once(store, names[FIRST:])
    entries = [store.read_json(f"champions/{name}") for name in _numbered(store)]
    wrong = check_log(entries, miou)
    failed = [result for result in results if isinstance(result, str)]
    sound = [] if wrong else [each for each in results if _is_right(each, entries)]
    return len(sound), [*wrong, *failed]


def prepare(store: Store, name: str, miou: float) -> None:
    """Write a checkpoint without a network that was evaluated with this mIoU."""
    hits = np.full((IMAGES, 3, len(CLASSES)), PIXELS, np.int64)
    spread = np.where(np.arange(IMAGES) % 2, 0.02, -0.02)
    hits[:, (HITS, PREDICTED)] = (PIXELS * (miou + spread)).round()[:, None, None]
    part = {"images": IMAGES, "miou": miou, "iou": dict.fromkeys(CLASSES, miou)}
    decision = {**part, "set": "other scenes", "fingerprint": FINGERPRINT}
    reported = {**part, "set": "scenes", "fingerprint": FINGERPRINT, "known": list(CLASSES)}
    write_evaluation(store, name, {**reported, "decision": decision}, hits, hits)
    meta = {"checkpoint": name, "version": "v", "manifest": "", "files": {}, "classes": CLASSES}
    store.write_json(f"checkpoints/{name}/meta.json", meta)


def settings_of(store: Store) -> Settings:
    """Return settings whose store is this one, with the credentials of its server."""
    chosen = StoreSettings(url=store.url, options=dict(store.options))
    return Settings().model_copy(update={"store": chosen})


def _at_once(store: Store, names: Sequence[str]) -> list[Any]:
    """Return each operation's name ("" for a rollback) and entry; a text if it failed."""
    _PROCESSES.set_forkserver_preload(["tasks.promote.champion"])
    go = _PROCESSES.Barrier(PROCESSES, timeout=600)
    outcomes: Any = _PROCESSES.SimpleQueue()
    racers = [
        started(compete, store, names[first::PROCESSES], go, outcomes) for first in range(PROCESSES)
    ]
    try:
        return [outcomes.get() for _ in names]
    finally:
        for racer in racers:
            racer.kill()
            racer.join()


def compete(store: Store, names: Sequence[str], go: Any, outcomes: Any) -> None:
    """Promote these checkpoints, but roll back in place of every `ROLLBACKS`th."""
    settings = settings_of(store)
    go.wait()
    for number, name in enumerate(names, 1):
        try:
            if number % ROLLBACKS:
                outcomes.put((name, dict(promote.fn(settings, name, FINGERPRINT))))
            else:
                outcomes.put(("", roll_back.fn(settings)))
        except Exception as error:
            outcomes.put(f"{name} failed: {type(error).__name__}: {error}")


def _numbered(store: Store) -> list[str]:
    return [name for name in store.list("champions") if name.endswith(".json")]


def _is_right(result: Any, entries: Sequence[Entry]) -> bool:
    """Whether an operation's result is in the log, and the log's last entry knows of it."""
    if isinstance(result, str):
        return False
    name, entry = result
    known = {key: entry[key] for key in entries[-1]}
    return known in entries and (not name or name in _contenders(entries[-1]))


def check_log(entries: Sequence[Entry], miou: Mapping[str, float]) -> list[str]:
    """Return what is wrong with the entries, given the mIoU of all checkpoints."""
    wrong = []
    for number, (before, after) in enumerate(itertools.pairwise([{}, *entries]), 1):
        lost = _contenders(before) - _contenders(after) | _withdrawn(before) - _withdrawn(after)
        new = len(_contenders(after)) - len(_contenders(before))
        new += len(_withdrawn(after)) - len(_withdrawn(before))
        best = max(_contenders(after) - _withdrawn(after), key=miou.__getitem__)
        if lost or new != 1:
            wrong.append(f"entry {number} has {new} changes and forgets {sorted(lost)}")
        if after["checkpoint"] != best:
            wrong.append(f"champion {number} is {after['checkpoint']}; {best} is the best")
    return wrong


def _contenders(entry: Entry) -> set[str]:
    """Return all checkpoints that were ever promoted, as far as the entry knows."""
    lists = [entry.get(key, []) for key in ("before", "lost", "withdrawn")]
    return {*itertools.chain(*lists), *([entry["checkpoint"]] if entry else [])}


def _withdrawn(entry: Entry) -> set[str]:
    return set(entry.get("withdrawn", []))


if __name__ == "__main__":
    run("promotions", main)
