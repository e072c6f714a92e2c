"""infra/systemd: systemd's own judgement of what a broken-into service can do."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from tests.security.deployed import PROJECT

pytestmark = pytest.mark.debian

UNITS = PROJECT / "infra/systemd"
WORST = 2.0  # of 10; a service without these lines has 9.2


def exposure(unit: Path) -> float:
    """The mark of `systemd-analyze security`: 0 is best, 10 is worst."""
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
    )
    return float(re.findall(r"Overall exposure level for \S+: ([\d.]+)", told.stdout)[0])


def settings(name: str) -> dict[str, str]:
    """Section [Service]; of a repeated key the last line."""
    unit = configparser.RawConfigParser(strict=False)
    unit.read(UNITS / name)
    return dict(unit["Service"])


@pytest.mark.parametrize("name", ["segmint-server.service", "segmint-worker.service"])
def test_systemd_finds_the_services_little_exposed(name: str, tmp_path: Path) -> None:
    assert exposure(UNITS / name) <= WORST
    bare = tmp_path / name
    bare.write_text(re.sub(r"(?m)^(?!User|Exec|\[)\w+=.*$", "", (UNITS / name).read_text()))
    assert exposure(bare) > 9  # so the mark comes from these lines


@pytest.mark.parametrize("name", ["segmint-server.service", "segmint-worker.service"])
def test_services_write_their_own_folder_and_nobody_else_reads_it(name: str) -> None:
    service = settings(name)
    assert service["protectsystem"] == "strict" and service["protecthome"] == "yes"
    assert service["statedirectory"] == name.replace(".service", "").replace("-worker", "")
    assert service["umask"] == "0077" and service["capabilityboundingset"] == ""
    # a call that is not allowed fails; by default it kills, and a run with it
    assert service["systemcallerrornumber"] == "EPERM"


def test_a_worker_still_sees_its_gpus_and_may_compile_for_them() -> None:
    service = settings("segmint-worker.service")
    assert not service.keys() & {"privatedevices", "devicepolicy", "deviceallow"}
    assert "memorydenywriteexecute" not in service


def test_the_server_is_asked_by_this_machine_and_its_own_pages_only() -> None:
    text = (UNITS / "segmint-server.service").read_text()
    assert "--host 127.0.0.1" in text
    assert "PREFECT_SERVER_CORS_ALLOWED_ORIGINS=http://localhost:4200,http://127.0.0.1:4200" in text


def test_no_unit_holds_a_secret_or_shows_one_in_its_command() -> None:
    for unit in UNITS.glob("*.service"):
        assert not re.search(
            r"(?i)(password|secret|token|auth_string|access_key)\S*=", unit.read_text()
        )
