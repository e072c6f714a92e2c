"""What events add up to: progress within shards, failures, repetitions and finished shards."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import Store
from tasks.monitor.totals import RunningTotals, StageProgress
from tasks.run import progress
from tasks.run.progress import Event, Report, announce, give_up, listening
from tasks.run.shards import Made, ShardJob, ShardStage


def after(events: Iterable[Event], seconds: float = 10.0) -> StageProgress:
    """Return the progress of `refine` after these events, one every `seconds`."""
    times = iter(range(1000))
    running = RunningTotals(lambda: next(times) * seconds)
    for event in events:
        running(event)
    found = running.stage("refine")
    assert found is not None
    return found


def shard(name: str, done: int, of: int = 4, ended: bool = False, failed: bool = False) -> Event:
    amount = 0 if ended else done
    return Event(
        "refine", amount, name, done, of, seconds=2.0, ended=ended, failed=failed, worker="one"
    )


WAITED = Event("refine", awaited=("0", "1"))


def test_progress_moves_within_a_shard_and_time_left_follows_it() -> None:
    stage = after([WAITED, shard("0", 0), shard("0", 2)])
    assert (stage.share, stage.rate, stage.left) == (0.25, 0.2, 30.0)
    assert stage.summary == "25 % · 30.0 s left · 0.2/s · 0 of 2 shards, 2 done"


def test_a_stage_that_has_not_begun_knows_no_rate() -> None:
    stage = after([WAITED])
    assert (stage.share, stage.rate, stage.left, stage.summary) == (
        0,
        None,
        None,
        "0 % · 0 of 2 shards, 0 done",
    )


def test_a_shard_with_fewer_units_than_others_counts_as_a_whole_one() -> None:
    ended = [shard("0", 4), shard("0", 4, ended=True), shard("1", 0, 0, ended=True)]
    assert after([WAITED, *ended]).share == 1


def test_a_failed_shard_is_over_until_it_is_announced_again() -> None:
    given_up = [
        WAITED,
        shard("0", 4, ended=True),
        shard("1", 1),
        Event("refine", name="1", ended=True, failed=True),
    ]
    stage = after(given_up)
    assert (stage.over, stage.share, stage.failures) == (True, 1, 1)
    again = after([*given_up, Event("refine", awaited=("1",))])
    assert (again.over, again.share) == (False, 0.5)
    assert after([*given_up, Event("refine", awaited=("1",)), shard("1", 4, ended=True)]).share == 1


def test_a_shard_whose_worker_died_starts_at_zero() -> None:
    assert after([WAITED, shard("0", 3), shard("0", 0)]).share == 0


def test_a_single_task_counts_its_units() -> None:
    stage = after(
        [Event("refine", 50, "version", 50, 200), Event("refine", 50, "version", 100, 200)]
    )
    assert stage.summary == "50 % · 10.0 s left · 10.0/s · 100 of 200"


def test_work_is_added_up_by_worker() -> None:
    running = RunningTotals()
    for worker, amount in (("one", 3), ("two", 5), ("one", 1)):
        running(Event("refine", amount, "0", amount, 9, seconds=2.0, worker=worker))
    work = running.totals().work
    assert {worker: (each.units, each.seconds) for (_, worker), each in work.items()} == {
        "one": (4, 4.0),
        "two": (5, 2.0),
    }


def test_a_report_follows_its_task_from_begin_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_measured_at", -math.inf)  # the machine is measured at once
    running = RunningTotals()
    with listening(running):
        announce("refine", ["00000", "00001"])
        with Report("refine", "00000", 4) as report:
            report(3)
            halfway = running.stage("refine")
            report(1)
        with pytest.raises(OSError, match="full"), Report("refine", "00001", 4):
            raise OSError("the disk is full")
        unfinished = running.stage("refine")
        give_up("refine", "00001")
        end = running.stage("refine")
    assert halfway and unfinished and end
    assert (halfway.share, unfinished.share) == (0.375, 0.5)
    assert (end.over, end.failures) == (True, 1)
    assert min(found["disk_free_bytes"] for found in running.totals().resources.values()) > 0


def test_a_published_shard_brings_its_stage_to_its_end(tmp_path: Path) -> None:
    job = ShardJob(Store.open(str(tmp_path)), Settings(name="night"), 0)
    table = pd.DataFrame({"row": [0], "id": ["00000000"]})
    made = Made({}, table, {})
    stage = ShardStage("publish-shards", lambda *_: made, lambda _: table, path_of, False)
    running = RunningTotals()
    with listening(running):
        for _ in range(2):  # the second time, the shard is in the store already
            announce("publish-shards", [job.name])
            waiting = running.stage("publish-shards")
            stage.finish(job)
            end = running.stage("publish-shards")
            assert waiting and end
            assert (waiting.share, end.share, end.over) == (0, 1, True)


def path_of(job: ShardJob) -> str:
    return f"versions/night/data/{job.name}"
