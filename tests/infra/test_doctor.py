import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import infra.doctor
from infra.doctor import Check, diagnose
from infra.settings import Settings


@pytest.fixture(autouse=True)
def _no_server() -> Iterator[None]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def checks(folder: Path, needed_bytes: int = 1, **sections: Any) -> dict[str, Check]:
    settings = Settings(**({"store": {"url": str(folder / "store")}} | sections))
    found = diagnose(settings, open_generator=lambda: "opens", needed_bytes=needed_bytes)
    return {check.name: check for check in found}


def wrong(found: dict[str, Check]) -> dict[str, str]:
    return {check.name: check.detail for check in found.values() if not check.ok}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_all_is_well_on_a_machine_where_the_tests_run(tmp_path: Path) -> None:
    assert wrong(checks(tmp_path)) == {}


def test_an_examination_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    checks(tmp_path)
    assert [file for file in (tmp_path / "store").rglob("*") if file.is_file()] == []


def test_a_store_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = checks(tmp_path, store={"url": str(tmp_path / "file" / "store")})
    assert set(wrong(found)) == {"store"}
    assert "store.url" in found["store"].remedy


def test_a_full_disk_is_found_with_what_is_free_and_needed(tmp_path: Path) -> None:
    assert "GB free" in wrong(checks(tmp_path, needed_bytes=1 << 60))["free space"]


def test_a_device_that_is_not_there_is_found(tmp_path: Path) -> None:
    found = checks(tmp_path, generator={"device": "cuda:63"})
    assert set(wrong(found)) == {"device"}
    assert found["device"].remedy == "set generator.device to auto or cpu"


def test_an_unknown_class_is_found(tmp_path: Path) -> None:
    assert wrong(checks(tmp_path, classes=("cra",))) == {
        "vocabulary": "unknown class 'cra' in classes: did you mean 'car'?"
    }


def test_a_generator_that_does_not_open_is_found(tmp_path: Path) -> None:
    def broken() -> str:
        raise ValueError("unet is missing")

    settings = Settings(store={"url": str(tmp_path / "store")})
    found = {
        check.name: check for check in diagnose(settings, open_generator=broken, needed_bytes=1)
    }
    assert wrong(found) == {"generator": "unet is missing"}


def test_a_prefect_server_that_is_down_is_found(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{closed_port()}/api"}):
        assert "refused" in wrong(checks(tmp_path))["prefect"]


def test_a_dask_scheduler_that_is_down_is_found(tmp_path: Path) -> None:
    found = checks(tmp_path, compute={"runner": f"dask://127.0.0.1:{closed_port()}"})
    assert "refused" in wrong(found)["compute"]


@pytest.mark.parametrize(
    ("cluster", "finding"), [(False, "credentials"), (True, "connection attempts failed")]
)
def test_a_kubernetes_that_cannot_be_reached_is_found(
    cluster: bool, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    if cluster:
        server = {"server": f"http://127.0.0.1:{closed_port()}"}
        named = {"clusters": {"cluster": server}, "users": {"user": {"token": "hush"}}}
        lists = {kind: [{"name": "night"} | inner] for kind, inner in named.items()}
        context = [{"name": "night", "context": {"cluster": "night", "user": "night"}}]
        kubeconfig.write_text(json.dumps(lists | {"contexts": context, "current-context": "night"}))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    found = checks(tmp_path, compute={"runner": "dask-kubernetes"})
    assert set(wrong(found)) == {"kubernetes"}
    assert finding in found["kubernetes"].detail
    assert "KUBECONFIG" in found["kubernetes"].remedy and "hush" not in str(found)


def test_without_the_operator_s_client_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask_kubernetes", None)
    found = checks(tmp_path, compute={"runner": "dask-kubernetes"})
    assert "pip install 'segmint[kubernetes]'" in wrong(found)["kubernetes"]


def test_a_package_out_of_bounds_is_found_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requires = ["numpy<1,>=0.9", "nosuchpackage>=2", "pytest>=99; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requires)
    found = [check for check in infra.doctor._versions() if not check.ok]
    assert [check.name for check in found] == ["numpy<1,>=0.9", "nosuchpackage>=2"]
    assert [check.remedy for check in found] == [
        "pip install 'numpy<1,>=0.9'",
        "pip install 'nosuchpackage>=2'",
    ]
    assert found[1].detail == "not installed"


def test_findings_hold_no_credentials(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://me:hush@127.0.0.1:{closed_port()}/api"}):
        found = checks(tmp_path)
    assert not found["prefect"].ok
    assert "hush" not in str(found)
