"""The whole team's night, all parts real: PostgreSQL, Prefect's server and worker, Dask, S3, and somebody who looks.

`segmint setup` and `prefect deploy --all`; the schedule fires, the run publishes, the publication's event starts the
training, the champion moves, the next plan's budget follows, and Prefect's pages show all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import Artifact, FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.settings import Settings
from infra.store import Store, list_versions, verify_version
from tasks.prepare import prepare
from tests.browser import PATIENCE, browser
from tests.dasks import Dask
from tests.fleet import Prefect, wait_until
from tests.flows import nights
from tests.postgres import Postgres
from tests.swift import Bucket, Swift

SECONDS = 1800.0  # for a night on a machine that is busy otherwise; on an idle one it takes two minutes
SMALL = {"train": {"steps": 2, "batch_size": 2}, "evaluate": {"images": 2, "batch_size": 2}, "watch": {"seconds": 0.5}}
LOUD = {StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}


def variables(values: Mapping[str, Any], prefix: str = "SEGMINT_") -> Iterator[tuple[str, str]]:
    """Settings as a worker's environment has them."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from variables(value, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", str(value)


class Team:
    """All servers, the store that they share, and what their Prefect server knows."""

    def __init__(self, root: Path, s3: Swift, bucket: Bucket) -> None:
        self.database = Postgres(root)
        self.settings = nights.settings(f"{bucket.url}/team", **SMALL)
        self.store = Store.open(f"{bucket.url}/team", bucket.options)
        changed = self.settings.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        self.prefect = Prefect(root, self.database, {**s3.environment, **dict(variables(changed))})
        self.dask = Dask(root, self.prefect.environment, workers=2)
        self.prefect.environment["SEGMINT_COMPUTE__RUNNER"] = self.dask.address

    def start(self) -> None:
        self.database.start()
        self.prefect.start()
        self.dask.start()

    def stop(self) -> None:
        self.dask.stop()
        self.prefect.stop()
        self.database.kill()

    @property
    def pages(self) -> str:
        """Where Prefect's pages are."""
        return self.prefect.url.removesuffix("/api") + "/v2"

    def runs(self, client: SyncPrefectClient, flow: str) -> list[FlowRun]:
        """Runs of a flow that have begun. None of them may have gone wrong."""
        begun = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.COMPLETED, *LOUD])
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=begun)),
        )
        for run in found:
            assert run.state and run.state.type not in LOUD, f"{flow}: {run.state}\n{self.prefect.log('worker')}"
        return found

    def completed(self, client: SyncPrefectClient, flow: str) -> FlowRun | None:
        """The first run of a flow that has ended."""
        return next((run for run in self.runs(client, flow) if run.state and run.state.is_completed()), None)


def artifacts(client: SyncPrefectClient, run: UUID) -> dict[str, Artifact]:
    """What a run shows, by key."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    return {str(artifact.key): artifact for artifact in client.read_artifacts(artifact_filter=of_run)}


@pytest.fixture
def team(tmp_path: Path, s3: Swift, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    team = Team(tmp_path, s3, bucket)
    try:
        team.start()
        with temporary_settings({PREFECT_API_URL: team.prefect.url}):
            yield team
    finally:
        team.stop()


@pytest.fixture
def client(team: Team) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def fire_soon(client: SyncPrefectClient, deployment: UUID) -> UUID:
    """Give a deployment another schedule, which fires at once and every minute; return its id."""
    soon = datetime.now(UTC) + timedelta(seconds=15)
    schedule = IntervalSchedule(interval=timedelta(minutes=1), anchor_date=soon)
    (made,) = client.create_deployment_schedules(deployment, [(schedule, True)])
    return made.id


def test_a_team_s_night_goes_from_its_schedule_to_the_next_plan_s_budget_and_is_seen(
    team: Team, client: SyncPrefectClient
) -> None:
    team.prefect.command("segmint", "setup")
    team.prefect.command("prefect", "--no-prompt", "deploy", "--all")
    deployment = client.read_deployment_by_name("nightly/nightly")
    schedule = fire_soon(client, deployment.id)
    team.prefect.start_worker()
    with browser() as page:
        see_the_run_form(page, team, deployment.id)
        (night, *_) = wait_until(lambda: team.runs(client, "nightly"), SECONDS)
        client.delete_deployment_schedule(deployment.id, schedule)
        wait_until(lambda: "progress-synthesize" in artifacts(client, night.id), SECONDS)
        see_the_progress(page, team, night.id)
        wait_until(lambda: team.completed(client, "nightly"), SECONDS)
        retraining = wait_until(lambda: team.completed(client, "retrain"), SECONDS)
        see_the_results(page, team, artifacts(client, night.id))
        see_the_links(page, team, artifacts(client, retraining.id)["report-links"])
    check_the_store(team)
    check_the_next_plan(team)


def see_the_run_form(page: Page, team: Team, deployment: UUID) -> None:
    """Each field with its explanation, and a wrong value told before anything runs."""
    page.goto(f"{team.pages}/deployments/deployment/{deployment}/run")


def see_the_progress(page: Page, team: Team, night: UUID) -> None:
    """Each stage with how much of it is done."""
    page.goto(f"{team.pages}/runs/flow-run/{night}?tab=Artifacts")


def see_the_results(page: Page, team: Team, shown: Mapping[str, Artifact]) -> None:
    """Contact sheet, labels and tables."""


def see_the_links(page: Page, team: Team, links: Artifact) -> None:
    """Report, version and champion."""


def check_the_store(team: Team) -> None:
    """One version, whole; a champion that was trained on it."""


def check_the_next_plan(team: Team) -> None:
    """Its budget is the champion's."""
