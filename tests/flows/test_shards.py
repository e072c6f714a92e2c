"""A run of many shards has few task runs and the same samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, TaskRunFilter

from flows.nightly import make_shards, nightly
from infra.settings import Settings
from tasks.plan.prepare import prepare
from tasks.run import stages as shards
from testbed import nights


def task_runs(flow_run: str) -> list[str]:
    """Names of the task runs of a flow run."""
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[flow_run])),
            task_run_filter=TaskRunFilter(),
        )
    return sorted(run.name for run in found)


def test_a_task_takes_as_many_shards_as_keeps_the_run_small(
    undisturbed: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # seven stages of five shards: two shards per task
    monkeypatch.setattr(shards, "MOST_TASK_RUNS", 20)
    chosen, all_shards = prepare.fn(nights.settings(folder))
    assert make_shards.with_options(flow_run_name="grouped")(chosen, all_shards) == {}
    generated = [
        f"{stage} {pair}" for stage in ("synthesize", "refine", "select") for pair in ("0-1", "2-3")
    ]
    publish = [f"publish-shards {group}" for group in ("0-1", "2-3", "4")]
    assert task_runs("grouped") == sorted([*generated, "compose 4", "select 4", *publish])
    assert nights.run(nights.settings(folder)) == {}
    assert nights.objects(folder) == nights.objects(Path(undisturbed.store.url))


def test_a_flow_run_has_the_name_of_its_run(undisturbed: Settings) -> None:
    state = nightly(undisturbed, return_state=True)
    with get_client(sync_client=True) as client:
        assert state.state_details.flow_run_id
        flow_run = client.read_flow_run(state.state_details.flow_run_id)
    assert flow_run.name == undisturbed.name


def test_finished_shards_have_no_task_run(undisturbed: Settings) -> None:
    chosen, all_shards = prepare.fn(undisturbed)
    assert make_shards.with_options(flow_run_name="nothing")(chosen, all_shards) == {}
    assert task_runs("nothing") == []


def test_a_shard_that_fails_does_not_affect_the_others_of_its_group(
    undisturbed: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MOST_TASK_RUNS", 10)  # four shards per task
    chosen, all_shards = prepare.fn(nights.settings(folder))
    obstacle = folder / "runs/night/synthesize/00001.parquet"
    obstacle.mkdir(parents=True)
    failed = make_shards(chosen, all_shards)
    assert failed[1].reason.startswith("synthesize StoreError: ")
    assert {f"runs/night/refine/{shard:05d}" for shard in (0, 2, 3)} <= nights.finished(chosen)
    obstacle.rmdir()
    assert make_shards(chosen, all_shards, alone=True) == {}
    nights.run(nights.settings(folder))
    assert nights.objects(folder) == nights.objects(Path(undisturbed.store.url))
