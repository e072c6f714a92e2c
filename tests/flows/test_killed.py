"""A run that is killed again and again leaves the same bytes as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from infra.settings import Settings
from infra.store import verify_version
from tasks.run.verify import verify_stored_run
from testbed import nights

KILLS = 10
SEED = 7
# seconds from a written file to the kill: as long as a shard takes on an idle core
LONGEST_DELAY = 0.2
LAST = 8  # no kill comes after all files but these; an idle machine writes the rest at once


def test_ten_kills_end_in_the_same_bytes_and_nothing_finished_is_done_twice(
    undisturbed: Settings, folder: Path, tmp_path: Path
) -> None:
    chosen = nights.settings(folder)
    theirs = Path(undisturbed.store.url)
    moments = random.Random(SEED)
    markers: dict[str, tuple[int, int]] = {}
    reached: set[str] = set()
    for kill in range(KILLS):
        before = nights.finished(chosen) if folder.exists() else set()
        log = tmp_path / f"{kill}.log"
        process = nights.start(chosen, log)
        count = _moment(moments, _files(folder), _files(theirs), KILLS - kill)
        _wait_for_files(process, folder, count)
        time.sleep(moments.uniform(0, LONGEST_DELAY))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it was killed"
        assert _worked(log) <= _missing(before), "a finished shard was worked on again"
        assert {path: _identity(folder, path) for path in markers} == markers, (
            "a finished shard was written again"
        )
        markers = {path: _identity(folder, path) for path in nights.finished(chosen)}
        reached |= {path.split("/")[2] for path in markers}
    assert reached >= {"synthesize", "refine"}
    assert len(markers) < 18, "the kills were spread over the whole run"
    unpublished = len(nights.SHARDS) - len(list(folder.glob("versions/*/data/*.json")))
    publishing = +Counter({"publish-shards": nights.ROWS * unpublished})
    assert nights.run(chosen) == _missing(set(markers)) + publishing
    assert {path: _identity(folder, path) for path in markers} == markers
    assert nights.objects(folder) == nights.objects(theirs)
    assert verify_stored_run(nights.store_of(chosen), "night") == []
    assert verify_version(nights.store_of(chosen), nights.version(undisturbed)) == []


def test_a_finished_run_does_no_work_and_writes_no_marker_again(undisturbed: Settings) -> None:
    root = Path(undisturbed.store.url)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("*.json")}
    assert nights.run(undisturbed) == Counter()
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before


def _moment(moments: random.Random, done: int, total: int, kills: int) -> int:
    """Return the number of files at which the next of `kills` kills comes.

    At least one of them is new, so that work was under way.
    """
    new = moments.randint(1, max(1, 2 * (total - done) // (kills + 1)))
    return min(max(done, 2) + new, total - LAST)


def _wait_for_files(process: BaseProcess, root: Path, count: int) -> None:
    while _files(root) < count and process.is_alive():
        time.sleep(0.01)


def _files(root: Path) -> int:
    return sum(1 for _ in _paths(root))


def _paths(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        kept = [name for name in names if not name.endswith(".partial") and name[0] != "."]
        yield from (f"{folder}/{name}" for name in kept)


def _identity(root: Path, path: str) -> tuple[int, int]:
    found = (root / f"{path}.json").stat()
    return found.st_ino, found.st_mtime_ns


def _missing(done: set[str]) -> Counter[str]:
    """Return the rows left to do per stage if the shards in `done` are finished."""
    left = {
        stage: nights.ROWS * sum(f"runs/night/{stage}/{shard:05d}" not in done for shard in shards)
        for stage, shards in nights.STAGES.items()
    }
    return +Counter(left)


def _worked(log: Path) -> Counter[str]:
    worked: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        stage, rows = line.split()
        if stage in nights.STAGES:
            worked[stage] += int(rows)
    return worked
