"""A team's nightly run with real parts: PostgreSQL, Prefect's server and worker, Dask, S3, a
browser.

`segmint setup` and `prefect deploy --all`; the schedule fires, the run publishes, the publication's
event starts the training, the champion moves, the next plan takes its budget, and Prefect's pages
show all of it.
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
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.store import Store, list_versions, verify_version
from infra.store.log import read_last
from tasks.plan.prepare import prepare
from tasks.schemas import CHAMPIONS
from testbed import nights
from testbed.browser import browser
from testbed.dasks import Dask
from testbed.fleet import Prefect
from testbed.postgres import Postgres
from testbed.processes import wait_until
from testbed.swift import Bucket, Swift

SECONDS = 1800.0  # for the run on a busy machine; on an idle one it takes three minutes
LINKS = "https://data.example/team"
SMALL = {
    "train": {"steps": 2, "batch_size": 2},
    "evaluate": {"images": 2, "batch_size": 2},
    "watch": {"seconds": 0.5, "links": LINKS},
}
LOUD = {StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}


def variables(values: Mapping[str, Any], prefix: str = "SEGMINT_") -> Iterator[tuple[str, str]]:
    """Yield the environment variables that hold these settings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from variables(value, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", str(value)


class Team:
    """All servers, and the store that they share."""

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
        """The address of Prefect's pages."""
        return self.prefect.url.removesuffix("/api") + "/v2"

    def runs(self, client: SyncPrefectClient, flow: str) -> list[FlowRun]:
        """Return the runs of a flow that have begun; it is an error if one of them is in `LOUD`."""
        begun = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.COMPLETED, *LOUD])
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=begun)),
        )
        for run in found:
            message = f"{flow}: {run.state}\n{self.prefect.log('worker')}"
            assert run.state and run.state.type not in LOUD, message
        return found

    def completed(self, client: SyncPrefectClient, flow: str) -> FlowRun | None:
        """Return the first completed run of a flow, None if there is none."""
        runs = self.runs(client, flow)
        return next((run for run in runs if run.state and run.state.is_completed()), None)


def artifacts(client: SyncPrefectClient, run: UUID) -> dict[str, Artifact]:
    """Return a run's artifacts by key."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    found = client.read_artifacts(artifact_filter=of_run)
    return {str(artifact.key): artifact for artifact in found}


@pytest.fixture
def team(
    tmp_path: Path, s3: Swift, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Team]:
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
    """Add a schedule to a deployment and return its id.

    It fires soon, and again every ten minutes in case the server is too slow for the first time.
    """
    # Prefect looks for new schedules once a minute
    soon = datetime.now(UTC) + timedelta(seconds=75)
    schedule: Any = IntervalSchedule(interval=timedelta(minutes=10), anchor_date=soon)
    (made,) = client.create_deployment_schedules(deployment, [(schedule, True)])
    return made.id


@pytest.mark.browser
def test_a_scheduled_run_leads_to_a_champion_and_the_next_budget_and_is_shown(
    team: Team, client: SyncPrefectClient
) -> None:
    team.prefect.command("segmint", "setup", "--without-password")
    team.prefect.command("prefect", "--no-prompt", "deploy", "--all")
    deployment = client.read_deployment_by_name("nightly/nightly")
    schedule = fire_soon(client, deployment.id)
    team.prefect.start_worker()
    with browser() as page:
        see_the_run_form(page, team, deployment)
        (night, *_) = wait_until(lambda: team.runs(client, "nightly"), SECONDS)
        client.delete_deployment_schedule(deployment.id, schedule)
        wait_until(lambda: "progress-synthesize" in artifacts(client, night.id), SECONDS)
        see_the_progress(page, team, night.id)
        wait_until(lambda: team.completed(client, "nightly"), SECONDS)
        see_the_images(page, team, artifacts(client, night.id))
        see_the_tables(page, team, artifacts(client, night.id))
        retraining = wait_until(lambda: team.completed(client, "retrain"), SECONDS)
        see_the_links(page, team, artifacts(client, retraining.id)["report-links"])
    check_the_champion(team)
    check_the_next_plan(team)


def see_the_run_form(page: Page, team: Team, deployment: DeploymentResponse) -> None:
    """Every setting has its description and is empty; wrong values are refused."""
    page.goto(f"{team.pages}/deployments/deployment/{deployment.id}/run")
    expect(
        page.get_by_text("Denoising steps per image, or Euler steps of a SemFlow.")
    ).to_be_visible()
    definitions = (deployment.parameter_openapi_schema or {})["definitions"]
    # the form shows the fields of a labeller when one is added to the list
    sections = [section for name, section in definitions.items() if name != "LabellerSettings"]
    fields = [field for section in sections for field in section["properties"].values()]
    described = {field["description"] for field in fields if "description" in field}
    shown = page.locator("form").inner_text()
    assert len(described) > 90 and [text for text in described if text not in shown] == []
    images = page.get_by_label("Images (Optional)").first
    expect(images).to_have_value("")
    images.fill("-3")
    refusal = images.evaluate("field => field.validationMessage")
    assert refusal == "Value must be greater than or equal to 1."
    keep(page, team, "form")


def see_the_progress(page: Page, team: Team, night: UUID) -> None:
    """The page of a running flow run shows a stage's progress."""
    page.goto(f"{team.pages}/runs/flow-run/{night}?tab=Artifacts")
    expect(page.get_by_text("progress-synthesize")).to_be_visible()
    progress = re.compile(r"^\d+ % · .*\d of 4 shards, \d done$")
    expect(page.get_by_text(progress).first).to_be_visible()
    keep(page, team, "progress")


def see_the_images(page: Page, team: Team, shown: Mapping[str, Artifact]) -> None:
    """The browser can decode the contact sheet and the labels."""
    for key in ("report-samples", "report-labels"):
        page.goto(f"{team.pages}/artifacts/artifact/{shown[key].id}")
        image = page.get_by_alt_text("artifact-image")
        expect(image).to_be_visible()
        width = "async image => { await image.decode(); return image.naturalWidth }"
        assert image.evaluate(width) > 250
        keep(page, team, key)


def see_the_tables(page: Page, team: Team, shown: Mapping[str, Artifact]) -> None:
    """The first page of each table shows all its values."""
    for key in ("report-figures", "report-classes", "rates", "machines"):
        page.goto(f"{team.pages}/artifacts/artifact/{shown[key].id}")
        expect(page.get_by_role("table")).to_be_visible()
        cells = page.get_by_role("table").inner_text()
        rows = json.loads(str(shown[key].data))[:10]
        assert rows
        values = [as_shown(value) for row in rows for value in row.values()]
        assert [value for value in values if value not in cells] == []
        keep(page, team, key)
    page.goto(f"{team.pages}/artifacts/artifact/{shown['progress-select'].id}")
    expect(page.get_by_text("Progress: 100%")).to_be_visible()


def as_shown(value: Any) -> str:
    """Return a value as the page shows it in a cell."""
    whole = isinstance(value, float) and value.is_integer()
    return "" if value is None else str(int(value) if whole else value)


def see_the_links(page: Page, team: Team, links: Artifact) -> None:
    """Report, version and champion are links to the store's files."""
    page.goto(f"{team.pages}/artifacts/artifact/{links.id}")
    (version,) = list_versions(team.store)
    champion = read_last(team.store, CHAMPIONS)[1]
    for path in (
        f"versions/{version.version}/manifest.json",
        f"checkpoints/{champion['checkpoint']}/meta.json",
    ):
        expect(page.locator(f'a[href="{LINKS}/{path}"]')).to_be_visible()
    expect(page.locator('a[href$="/report.html"]')).to_be_visible()
    keep(page, team, "links")


def keep(page: Page, team: Team, name: str) -> None:
    """Leave a screenshot beside the servers' logs."""
    page.screenshot(path=team.prefect.root / f"{name}.png", full_page=True)


def check_the_champion(team: Team) -> None:
    """The champion was trained on the only version, which is intact."""
    (version,) = list_versions(team.store)
    champion = read_last(team.store, CHAMPIONS)[1]
    assert verify_version(team.store, version.version) == []
    assert champion["version"] == version.version and version.samples > 0


def check_the_next_plan(team: Team) -> None:
    """The next plan's budget is the champion's; the first run had none."""
    (before,) = team.store.list("runs")
    record = team.store.read_json(f"runs/{before}/settings.json")
    assert record["settings"]["plan"]["budget"] is None
    following, _ = prepare.fn(team.settings.model_copy(update={"name": "next"}))
    budget = read_last(team.store, CHAMPIONS)[1]["budget"]
    mean = sum(budget.values()) / len(budget)
    assert following.plan.budget == pytest.approx(
        {name: share / mean for name, share in budget.items()}, abs=1e-5
    )
