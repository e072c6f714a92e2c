"""What every stage does around a shard: it skips, reports, writes, and fails alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prefect.logging import disable_run_logger

from infra.settings import Settings
from infra.store import Store, read_marker, read_shard
from tasks.plan.rows import start_run
from tasks.run.progress import Event, Report, listening
from tasks.run.shards import Made, ShardJob, ShardsFailedError, over_shards

ROWS = 3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run of two shards, of which nothing is made."""
    plan = {"images": 2 * ROWS, "shard_size": ROWS, "multi": 0.0, "negatives": 0.0}
    settings = Settings(store={"url": str(tmp_path)}, classes=("car",), plan=plan)
    start_run(Store.open(str(tmp_path)), settings)
    return settings


def number(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    """The shard's number in every row, one row reported."""
    report(1)
    values = np.full(len(rows), job.shard, np.int32)
    return Made({"value": values}, rows[["row", "id"]], {"rows": len(rows)})


def test_a_shard_is_stored_with_its_rows_and_statistics(settings: Settings) -> None:
    marker = over_shards("refine", number).shard(settings, 1)
    store = Store.open(settings.store.url)
    arrays, table = read_shard(store, "runs/nightly/refine/00001")
    assert list(table["row"]) == [3, 4, 5]
    assert (arrays["value"] == 1).all()
    assert marker.stats == {"rows": ROWS}
    assert marker.seconds >= 0


def test_a_finished_shard_is_not_made_again(settings: Settings) -> None:
    def fail(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
        raise AssertionError("made again")

    marker = over_shards("refine", number).shard(settings, 0)
    assert over_shards("refine", fail).shard(settings, 0) == marker


def test_progress_is_complete_even_if_a_stage_reports_a_part(settings: Settings) -> None:
    events: list[Event] = []
    with listening(events.append):
        over_shards("refine", number).shard(settings, 0)
    assert [(event.amount, event.done, event.of, event.ended) for event in events] == [
        (0, 0, ROWS, False),
        (1, 1, ROWS, False),
        (2, ROWS, ROWS, False),
        (0, ROWS, ROWS, True),
    ]
    assert {(event.stage, event.name) for event in events} == {("refine", "00000")}


def test_a_shard_that_fails_takes_no_other_along_and_is_reported(settings: Settings) -> None:
    def make(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
        if job.shard == 0:
            raise OSError("disk full")
        return number(job, rows, report)

    events: list[Event] = []
    task = over_shards("refine", make)
    with (
        disable_run_logger(),
        listening(events.append),
        pytest.raises(ShardsFailedError, match="shard 00000: OSError: disk full") as failure,
    ):
        task.fn(settings, [0, 1])
    assert failure.value.reasons == {0: "OSError: disk full"}
    assert pickle.loads(pickle.dumps(failure.value)).reasons == failure.value.reasons
    assert [event.name for event in events if event.failed] == ["00000"]
    store = Store.open(settings.store.url)
    assert read_marker(store, "runs/nightly/refine/00000") is None
    assert read_marker(store, "runs/nightly/refine/00001") is not None


def test_a_stage_may_take_other_rows_and_another_path(settings: Settings) -> None:
    task = over_shards(
        "refine",
        number,
        rows=lambda job: job.plan.of_shard(job.shard).iloc[:1],
        path=lambda job: f"elsewhere/{job.name}",
    )
    marker = task.shard(settings, 1)
    assert len(marker.ids) == 1
    assert read_marker(Store.open(settings.store.url), "elsewhere/00001") == marker
