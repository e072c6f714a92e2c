"""The flow's process reports what Dask's workers do: in Prefect's UI, as metrics and as lines of
JSON.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prometheus_client.parser import text_string_to_metric_families

from flows.nightly import nightly
from infra.settings import Settings
from tasks.run import stages as shards
from testbed import nights

ROWS = {"synthesize": 8, "refine": 8, "select": 10, "compose": 2, "publish-shards": 10}
WORKERS = {"cpu-0", "cpu-1"}


class Watched(NamedTuple):
    settings: Settings
    artifacts: dict[str, list[Any]]
    metrics: dict[str, dict[tuple[str, ...], float]]
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run on two workers with several shards per task, and all that was reported of it."""
    folder = tmp_path_factory.mktemp("watched")
    watch = {
        "metrics": str(folder),
        "lines": str(folder),
        "seconds": 0.5,
        "links": "https://data.example/team",
    }
    chosen = nights.settings(
        folder / "store", compute={"runner": "dask-local", "workers": 2}, watch=watch
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MOST_TASK_RUNS", 10)  # 5 shards in 6 folders: groups of three
        state = nightly(chosen, return_state=True)
    assert state.is_completed(), state
    assert state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run))
    artifacts: dict[str, list[Any]] = defaultdict(list)
    for artifact in found:
        artifacts[str(artifact.key)].append(artifact)
    text = (folder / "segmint-nightly.prom").read_text()
    lines = [json.loads(line) for line in (folder / "night.jsonl").read_text().splitlines()]
    return Watched(chosen, artifacts, metrics_of(text), lines)


def metrics_of(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples by name and by the values of their labels, without `flow`."""
    found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("flow") == "nightly"
            found[sample.name][tuple(sample.labels.values())] = sample.value
    return found


def test_each_stage_has_one_progress_artifact_and_it_ends_at_100_percent(watched: Watched) -> None:
    for stage, rows in ROWS.items():
        (artifact,) = watched.artifacts[f"progress-{stage}"]
        assert artifact.type == "progress" and artifact.data == 100
        of = f"{rows} of {rows}" if stage == "compose" else f"shards, {rows} done"
        assert artifact.description.startswith("100 % · ") and artifact.description.endswith(of)


def test_what_workers_do_is_counted_by_the_flow(watched: Watched) -> None:
    units = watched.metrics["segmint_units_total"]
    # on a slow machine the second one may start too late
    assert {worker for _, worker in units} <= WORKERS
    assert {stage: sum(n for (of, _), n in units.items() if of == stage) for stage in ROWS} == ROWS
    (table,) = watched.artifacts["rates"]
    rows = json.loads(table.data)
    assert {(row["stage"], row["worker"]): row["done"] for row in rows} == units
    # the table's seconds are rounded, and a shard here takes less than one
    seconds = watched.metrics["segmint_busy_seconds_total"]
    rates = {(row["stage"], row["worker"]): row["per second"] for row in rows}
    assert {key: rate for key, rate in rates.items() if rate is not None} == {
        key: pytest.approx(done / seconds[key], rel=1e-3, abs=0.01)
        for key, done in units.items()
        if seconds[key]
    }


def test_a_shard_s_progress_is_reported_while_it_runs(watched: Watched) -> None:
    reported = [(line["done"], line["ended"]) for line in watched.lines if line["name"] == "00002"]
    assert reported[:3] == [(0, False), (2, False), (2, True)]
    worked: Counter[str] = Counter()
    for line in watched.lines:
        worked[line["stage"]] += line["amount"]
    assert +worked == ROWS
    assert {(line["run"], line["flow"]) for line in watched.lines} == {("night", "nightly")}


def test_the_workers_disks_and_the_store_s_are_measured(watched: Watched) -> None:
    free = watched.metrics["segmint_worker_disk_free_bytes"]
    assert {worker for (worker,) in free} & WORKERS and min(free.values()) > 0
    assert watched.metrics["segmint_store_free_bytes"][()] > 0
    (table,) = watched.artifacts["machines"]
    assert {row["worker"] for row in json.loads(table.data)} == {worker for (worker,) in free}


def test_kept_and_rejected_samples_are_reported_per_class_and_reason(watched: Watched) -> None:
    (classes,) = watched.artifacts["report-classes"]
    (reasons,) = watched.artifacts["report-reasons"]
    rows = {row["class"]: row for row in json.loads(classes.data)}
    kept = {name: ratio for (name,), ratio in watched.metrics["segmint_keep_ratio"].items()}
    assert {name: f"{100 * ratio:.1f} %" for name, ratio in kept.items()} == {
        name: row["keep rate"] for name, row in rows.items() if row["kept"] + row["rejected"]
    }
    rejected = {reason: n for (reason,), n in watched.metrics["segmint_rejected_samples"].items()}
    assert rejected == {row["reason"]: row["samples"] for row in json.loads(reasons.data)}


def test_image_and_link_artifacts_show_the_run_s_results(watched: Watched) -> None:
    for key in ("report-samples", "report-labels"):
        (image,) = watched.artifacts[key]
        assert image.type == "image" and image.data.startswith("data:image/webp;base64,")
    (links,) = watched.artifacts["report-links"]
    version = nights.version(watched.settings)
    assert "https://data.example/team/runs/night/report.html" in links.data
    assert f"https://data.example/team/versions/{version}/manifest.json" in links.data
    assert "Champion: none yet" in links.data
