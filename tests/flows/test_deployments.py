"""prefect.yaml works as it is: deployed runs find the project's code, wherever their worker was
started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import get_current_settings
from pydantic import BaseModel

from infra.settings import Settings

PROJECT = Path(__file__).parents[2]


def prefect(*arguments: str, folder: Path) -> str:
    """Run Prefect's command line on the tests' server."""
    environment = os.environ | get_current_settings().to_environment_variables(exclude_unset=True)
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def deployed(server: None) -> None:
    prefect("work-pool", "create", "segmint", "--type", "process", folder=PROJECT)
    prefect("--no-prompt", "deploy", "--all", folder=PROJECT)


@pytest.mark.parametrize(
    ("deployment", "parameters", "remedy"),
    [
        ("nightly/nightly", {"settings": {"classes": ["nothing"]}}, "nothing"),
        ("retrain/retrain", {"version": "none"}, "none"),
    ],
)
def test_a_deployed_run_starts_the_flow_from_any_folder(
    deployment: str, parameters: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    """The flow's own error about its settings shows that it was found and got its parameters."""
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        made: FlowRun = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        prefect("flow-run", "execute", str(made.id), folder=tmp_path)
        state = client.read_flow_run(made.id).state
    assert state is not None and state.is_failed()
    assert remedy in str(state.message)


def test_publication_triggers_one_retraining_at_a_time() -> None:
    with get_client(sync_client=True) as client:
        retrain = client.read_deployment_by_name("retrain/retrain")
        automations = client._client.post("/automations/filter", json={}).json()
        nightly = client.read_deployment_by_name("nightly/nightly")
    ours = [each for each in automations if each["name"].startswith("retrain")]
    assert [each["trigger"]["expect"] for each in ours] == [["segmint.version.published"]]
    # an event names the version; settings are the deployment's, and the same for both flows
    assert [action["parameters"].keys() for each in ours for action in each["actions"]] == [
        {"version"}
    ]
    assert retrain.parameters == nightly.parameters == {"settings": {"name": "nightly-{date}"}}
    limit = retrain.global_concurrency_limit
    assert limit is not None and limit.limit == 1


def explained(field: dict[str, Any], sections: dict[str, Any]) -> bool:
    """Whether a field has a description, its own or that of the section that it refers to."""
    section = sections.get(field.get("$ref", "").rpartition("/")[2], {})
    return bool({**section, **field}.get("description"))


def test_the_run_form_explains_and_bounds_every_setting() -> None:
    """The schema is what Prefect's page for a run shows."""
    with get_client(sync_client=True) as client:
        form = client.read_deployment_by_name("nightly/nightly").parameter_openapi_schema
    assert form is not None
    sections = form["definitions"]
    assert sections.keys() >= {
        "Settings",
        *(type(value).__name__ for _, value in Settings() if isinstance(value, BaseModel)),
    }
    fields = {
        f"{name}.{field}": found
        for name, of in sections.items()
        for field, found in of["properties"].items()
    }
    fields |= form["properties"]
    assert [name for name, found in fields.items() if not explained(found, sections)] == []
    plan, generator = (
        sections[name]["properties"] for name in ("PlanSettings", "GeneratorSettings")
    )
    assert plan["multi"] | {"minimum": 0, "maximum": 1, "type": "number"} == plan["multi"]
    assert plan["multi"]["description"].endswith(" [0.3]")
    assert plan["images"]["minimum"] == 1
    assert generator["attention"]["enum"] == ["phrases", "names"]
    assert generator["device"]["pattern"].startswith("^(auto|cpu")


def test_the_run_form_fills_in_no_default() -> None:
    """Prefect's pages send every default that a form shows, and it would override the worker's
    environment, such as its store.
    """
    with get_client(sync_client=True) as client:
        form = client.read_deployment_by_name("nightly/nightly").parameter_openapi_schema
    assert form is not None
    fields = [
        field
        for section in form["definitions"].values()
        for field in section["properties"].values()
    ]
    assert not [field for field in fields if "default" in field]
