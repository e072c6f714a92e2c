"""Who may emit an event or start a run on Prefect's server decides neither where its worker reads,
writes and sends, nor what it trains.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import BaseModel

from flows.pretrain import pretrain
from flows.retrain import retrain
from infra.explain import section_of
from infra.settings import Settings, SettingsError
from infra.settings.places import PLACES
from testbed.fleet import Prefect
from testbed.processes import wait_until
from testbed.strangers import stranger

SECONDS = 900.0  # for a flow run on a busy machine; on an idle one it takes fifteen

OTHER_PLACES: dict[str, dict[str, Any]] = {
    "store.url": {"store": {"url": "s3://theirs/store"}},
    "store.options.endpoint_url": {"store": {"options": {"endpoint_url": "http://theirs"}}},
    "store.options.client_kwargs.endpoint_url": {
        "store": {"options": {"client_kwargs": {"endpoint_url": "http://theirs"}}}
    },
    "store.block": {"store": {"block": "another-team"}},
    "vocabulary": {"vocabulary": "/etc/passwd"},
    "plan.captions": {"plan": {"captions": "/etc/passwd"}},
    "generator.path": {"generator": {"path": "/tmp/pipeline"}},
    "generator.labels": {"generator": {"labels": "/home"}},
    "refine.labellers.0.path": {
        "refine": {"method": "labeller", "labellers": [{"kind": "sam3", "path": "/tmp/sam3"}]}
    },
    "train.model": {"train": {"model": "/tmp/config.py"}},
    "train.weights": {"train": {"weights": "/tmp/weights.pth"}},
    "train.real": {"train": {"real": "/home"}},
    "evaluate.voc": {"evaluate": {"voc": "/home"}},
    "compare.models": {"compare": {"models": ["segformer", "/tmp/config.py"]}},
    "compute.runner": {"compute": {"runner": "dask://theirs:8786"}},
    "compute.kubernetes.image": {"compute": {"kubernetes": {"image": "theirs"}}},
    "compute.kubernetes.secret": {"compute": {"kubernetes": {"secret": "another-team"}}},
    "compute.kubernetes.service_account": {"compute": {"kubernetes": {"service_account": "admin"}}},
    "watch.metrics": {"watch": {"metrics": "http://theirs"}},
    "watch.lines": {"watch": {"lines": "/home"}},
    "watch.links": {"watch": {"links": "http://theirs"}},
}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment of a worker's flow run."""
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid.uuid4()))
    monkeypatch.setenv("SEGMINT_STORE__URL", "s3://ours/store")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def given(settings: dict[str, Any]) -> Settings:
    """Return the settings of a run of `retrain` with this parameter, as Prefect makes them."""
    settings_of_run: Settings = retrain.validate_parameters(
        {"settings": settings, "version": "night"}
    )["settings"]
    return settings_of_run


@pytest.mark.parametrize("field", OTHER_PLACES)
@pytest.mark.usefixtures("worker")
def test_a_parameter_names_no_other_place_than_the_worker_s(field: str) -> None:
    with pytest.raises(ParameterTypeError) as refused:
        given(OTHER_PLACES[field])
    variable = f"SEGMINT_{field.partition('.0')[0].upper().replace('.', '__')}"
    assert field in str(refused.value)
    assert f"set {variable} there, or list the place in SEGMINT_ALLOWED" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://shared-theirs/store",
        "s3://shared/../theirs",
        "s3://shared/x::http://theirs",
        "s3://shared@theirs/store",
        "file:///data/store",
        "/data/../etc",
        "/database",
        "/data/link",
        "~/data",
        "~root",
        "/data/\0",
    ],
)
def test_no_spelling_leads_out_of_the_list(
    url: str, worker: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to("/etc")
    worker.setenv("SEGMINT_ALLOWED", f"{tmp_path}/data, s3://shared")
    with pytest.raises(ParameterTypeError, match=r"store\.url|hold a credential"):
        given({"store": {"url": url.replace("/data", f"{tmp_path}/data")}})


def test_a_list_of_models_in_one_text_is_checked_model_by_model(
    worker: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker.setenv("SEGMINT_ALLOWED", str(tmp_path))
    with pytest.raises(ParameterTypeError, match=r"compare\.models"):
        given({"compare": {"models": "segformer,/etc/passwd"}})
    given({"compare": {"models": f"segformer,{tmp_path}/config.py"}})


def test_the_worker_s_own_places_and_those_of_its_list_are_fine(
    worker: pytest.MonkeyPatch,
) -> None:
    worker.setenv("SEGMINT_ALLOWED", "/data, s3://shared, https://s3.example")
    worker.setenv("SEGMINT_EVALUATE__VOC", "/photographs")
    assert given({"plan": {"images": 3}}).store.url == "s3://ours/store"
    for fine in (
        {"store": {"url": "s3://ours/store"}, "evaluate": {"voc": "/photographs"}},
        {"store": {"url": "s3://shared/store", "options": {"endpoint_url": "https://s3.example"}}},
        {"generator": {"path": "/data/sd15"}, "train": {"real": "drawn", "model": "segformer-b0"}},
        {"generator": {"path": "semflow:night-1", "labels": "night-2"}},
        {
            "refine": {
                "method": "labeller",
                "labellers": [{"kind": "clipseg", "path": "/data/clipseg", "digest": "ab12"}],
            }
        },
        {"vocabulary": "cityscapes", "compute": {"runner": "dask-local"}, "watch": {"lines": "-"}},
    ):
        given(fine)


def test_a_worker_s_own_labeller_is_fine_and_another_detector_is_not(
    worker: pytest.MonkeyPatch,
) -> None:
    own = {"kind": "grounded-sam2", "path": "/m/sam2", "detector": "/m/dino"}
    worker.setenv("SEGMINT_REFINE__LABELLERS", json.dumps([own]))
    given({"refine": {"method": "labeller", "labellers": [own]}})
    with pytest.raises(
        ParameterTypeError, match=r"labellers\.0\.detector = '/etc'.*LABELLERS there"
    ):
        given({"refine": {"method": "labeller", "labellers": [{**own, "detector": "/etc"}]}})


@pytest.mark.parametrize("path", ["semflow:../flow", "semflow:/flow", "semflow:", "./semflow:a"])
@pytest.mark.usefixtures("worker")
def test_a_flow_is_a_checkpoint_of_the_worker_s_own_store(path: str) -> None:
    with pytest.raises(ParameterTypeError, match=r"generator\.path"):
        given({"generator": {"path": path}})


def test_a_command_may_name_any_place() -> None:
    for settings in OTHER_PLACES.values():
        Settings(**settings)


def test_every_setting_that_may_name_a_place_is_known_to_be_one_or_not() -> None:
    """A new setting of text, or of a table of anything, has to be sorted in here."""
    harmless = {
        "name",
        "classes",
        "generator.weights",
        "generator.labels_digest",
        "refine.labellers.digest",
        "generator.device",
        "compute.limit",
        "compute.kubernetes.memory",
        "alarm.notify",
        "plan.budget",
        "plan.backgrounds",
        "plan.sizes",
        "plan.subclasses",
        "train.unseen",
        "train.versions",
        "train.version_weights",
        "train.class_weights",
    }
    assert {field for field, kind in texts(Settings)} == harmless | set(PLACES)


def texts(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields that hold free text, or anything, with their types."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if (section := section_of(field)) is not None:
            yield from texts(section, f"{above}{name}.")
        elif kind is str or any(word in str(kind) for word in ("str |", "[str", "Any")):
            yield f"{above}{name}", str(kind)


@pytest.mark.usefixtures("worker")
def test_pretraining_writes_into_no_other_folder_than_its_own() -> None:
    recipe = pretrain.validate_parameters({"recipe": {"folder": "/etc/cron.d"}})["recipe"]
    with pytest.raises(SettingsError, match=r"folder = '/etc/cron\.d'.*SEGMINT_ALLOWED"):
        pretrain.fn(recipe)


# on a real server, with a real worker


@pytest.fixture
def theirs() -> Iterator[tuple[str, list[str]]]:
    """The address of somebody's endpoint, and what it was sent."""
    with stranger() as found:
        yield found


@pytest.fixture
def team(fleet: Prefect, tmp_path: Path) -> Iterator[SyncPrefectClient]:
    """A client of a server with deployments and a worker, whose environment names its store."""
    before = dict(fleet.environment)
    fleet.environment |= {
        "SEGMINT_STORE__URL": str(tmp_path / "ours"),
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "not telling",
        "AWS_SESSION_TOKEN": "our-session-token",
    }
    fleet.command("segmint", "setup", "--without-password")
    fleet.command("prefect", "--no-prompt", "deploy", "--all")
    fleet.start_worker()
    with temporary_settings({PREFECT_API_URL: fleet.url}), get_client(sync_client=True) as client:
        yield client
    fleet.kill_workers()
    fleet.environment = before


def ended(client: SyncPrefectClient, count: int) -> list[FlowRun]:
    """Return the runs of `retrain`, once there are so many and all have ended."""

    def found() -> list[FlowRun] | None:
        retrains = FlowFilter(name=FlowFilterName(any_=["retrain"]))
        runs = client.read_flow_runs(flow_filter=retrains)
        over = [run for run in runs if run.state and run.state.is_final()]
        return over if len(over) == count else None

    return wait_until(found, SECONDS)


def test_neither_an_event_nor_a_run_s_parameters_redirect_the_training(
    team: SyncPrefectClient, theirs: tuple[str, list[str]], fleet: Prefect, tmp_path: Path
) -> None:
    endpoint, heard = theirs
    settings = {
        "store": {"url": "s3://theirs/store", "options": {"endpoint_url": endpoint}},
        "train": {"model": str(tmp_path / "theirs.py")},
    }
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "segmint.version.published",
        "resource": {"prefect.resource.id": "segmint.dataset.night"},
        "payload": {"version": "night-01234567", "run": "night", "settings": settings},
    }
    httpx.post(f"{fleet.url}/events", json=[event]).raise_for_status()
    (by_event,) = ended(team, 1)
    ours = {"settings": {"name": "nightly-{date}"}, "version": "night-01234567"}
    assert by_event.parameters == ours
    assert "night-01234567" in str(by_event.state) and str(tmp_path / "ours") in str(by_event.state)
    deployment = team.read_deployment_by_name("retrain/retrain")
    made = team.create_flow_run_from_deployment(
        deployment.id, parameters={"version": "night-01234567", "settings": settings}
    )
    ended(team, 2)
    state = team.read_flow_run(made.id).state
    assert state is not None and state.is_failed()
    assert "setting store.url" in str(state.message)
    assert "SEGMINT_ALLOWED" in str(state.message)
    assert heard == []
