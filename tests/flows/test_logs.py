"""Log records name their run, stage and shard, in flows and in Dask's workers; JSON on request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import get_current_settings

from testbed import nights

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The log of a run on Dask in which one shard cannot be written."""
    folder = tmp_path_factory.mktemp("logs")
    (folder / "store/runs/night/refine/00001.parquet").mkdir(parents=True)
    chosen = nights.settings(
        folder / "store", compute={"runner": "dask-local"}, watch={"lines": "-"}
    )
    (folder / "night.yaml").write_text(json.dumps(chosen.resolved()))
    json_logs = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
        "PREFECT_LOGGING_LEVEL": "INFO",
    }
    server = get_current_settings().to_environment_variables(exclude_unset=True)
    program = Path(sys.executable).with_name("segmint")
    config = folder / "night.yaml"
    command: list[str | Path] = [program, "run", "--config", config, "--no-train"]
    environment = {**os.environ, **server, **json_logs}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert "shard 00001: refine StoreError" in done.stderr, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


def test_a_failure_in_a_worker_names_run_stage_and_shard(records: list[dict[str, Any]]) -> None:
    (failure,) = [
        record for record in records if record.get("exc_info") and record.get("stage") == "refine"
    ]
    assert (failure["run"], failure["shard"]) == ("night", "00001")
    assert failure["task_run_name"] == "refine 1"
    assert failure["exc_info"]["type"] == "StoreError"


def test_the_flow_s_own_records_name_the_run(records: list[dict[str, Any]]) -> None:
    of_flow = [
        record for record in records if record.get("run") == "night" and "shard" not in record
    ]
    assert {record["name"] for record in of_flow if "levelname" in record} >= {"prefect.flow_runs"}


def test_events_can_be_lines_of_the_log(records: list[dict[str, Any]]) -> None:
    events = [record for record in records if "amount" in record]
    assert sum(event["amount"] for event in events if event["stage"] == "synthesize") == 8
    assert ("refine", "00001") in [
        (event["stage"], event["name"]) for event in events if event["failed"]
    ]
