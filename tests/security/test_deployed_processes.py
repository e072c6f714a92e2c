"""Prefect and Dask, started by the commands, variables and secrets of infra/compose, turn away who
has no secret of theirs.
"""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from testbed.processes import answers, end, free_ports, spawned, wait_until
from tests.security.deployed import environment, made_secrets

pytestmark = [pytest.mark.debian, pytest.mark.server, pytest.mark.slow]

BIN = Path(sys.executable).parent
START_SECONDS = 300.0  # both take ten on an idle machine
SUBMIT = """
import sys
from distributed import Client
from infra.clusters import task_runner
from infra.settings import ComputeSettings

runner = task_runner(ComputeSettings(runner=sys.argv[1]))
with Client(runner.address, timeout=60) as client:
    print(client.scheduler.address, client.submit(sum, [40, 2]).result(60))
"""
PLAIN = """
import sys
from distributed import Client

with Client(sys.argv[1], timeout=5) as client:
    print(client.run_on_scheduler(lambda: "code ran"))
"""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_secrets(tmp_path_factory.mktemp("compose") / "compose")


# Prefect


@pytest.fixture(scope="module")
def api(
    secrets: Path, services: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The server of compose, on another port and on SQLite."""
    home = tmp_path_factory.mktemp("prefect")
    (port,) = free_ports(1)
    service = services["prefect"]
    words = [str(BIN / "prefect"), *service["command"][1:-1], str(port)]
    words[words.index("0.0.0.0")] = "127.0.0.1"
    given = environment(service, secrets) | {
        "PREFECT_HOME": str(home),
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
    }
    servers = [spawned(words, home / "log", env=given, cwd=home)]
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_until(lambda: answers(port), START_SECONDS, lambda: (home / "log").read_text()[-2000:])
        yield url
    finally:
        end(servers, signal.SIGTERM)


def asked(url: str, **headers: str) -> tuple[int, dict[str, str]]:
    body = None if "Access_Control_Request_Method" in headers else b"{}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        url,
        body,
        named | {"Content-Type": "application/json"},
        method="POST" if body else "OPTIONS",
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def test_prefect_answers_only_who_has_the_password_of_the_file(
    api: str, secrets: Path, services: dict[str, Any]
) -> None:
    assert asked(f"{api}/flows/filter")[0] == 401
    given = environment(services["worker"], secrets) | {"PREFECT_API_URL": api}
    listed = subprocess.run(
        [BIN / "prefect", "work-pool", "ls"], env=given, capture_output=True, text=True, cwd=secrets
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr


def test_pages_of_other_sites_may_not_call_prefect(api: str) -> None:
    ask = {"Access_Control_Request_Method": "POST"}
    _, own = asked(f"{api}/flows/", Origin="http://localhost:4200", **ask)
    _, foreign = asked(f"{api}/flows/", Origin="https://evil.example", **ask)
    assert own["access-control-allow-origin"] == "http://localhost:4200"
    assert "access-control-allow-origin" not in foreign


def test_the_server_reads_the_database_s_password_from_the_file(
    secrets: Path, services: dict[str, Any]
) -> None:
    code = (
        "from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL as url;print(url.value())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(services["prefect"], secrets),
        capture_output=True,
        text=True,
        check=True,
        cwd=secrets,
    )
    password = (secrets / "postgres").read_text()
    assert told.stdout.strip() == f"postgresql+asyncpg://prefect:{password}@postgres:5432/prefect"


# Dask


@pytest.fixture(scope="module")
def dask(
    secrets: Path, services: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """HOST:PORT of the scheduler of compose, which has one of its workers."""
    folder = tmp_path_factory.mktemp("dask")
    ports = dict(zip(("8786", "8787", "8788"), map(str, free_ports(3)), strict=True))
    address = f"127.0.0.1:{ports['8786']}"
    with ExitStack() as started:
        for name in ("dask-scheduler", "dask-worker"):
            words = [_moved(word, ports) for word in services[name]["command"]]
            given = environment(services[name], secrets)
            process = spawned([BIN / words[0], *words[1:]], folder / name, env=given, cwd=folder)
            started.callback(end, [process], signal.SIGTERM)
            wait_until(lambda: answers(int(ports["8786"])), START_SECONDS)
        yield address


def _moved(word: str, ports: dict[str, str]) -> str:
    word = word.replace("dask-scheduler:", "127.0.0.1:")
    return re.sub(r"\b878[678]\b", lambda port: ports[port[0]], word)


def run(code: str, *words: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    here = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=env | here, capture_output=True, text=True
    )


def test_a_flow_computes_on_dask_over_tls(
    dask: str, secrets: Path, services: dict[str, Any]
) -> None:
    computed = run(SUBMIT, f"dask://{dask}", env=environment(services["worker"], secrets))
    assert computed.returncode == 0, computed.stderr
    assert computed.stdout.split() == [f"tls://{dask}", "42"]


@pytest.mark.parametrize("kind", ["in clear", "without a certificate", "with another certificate"])
def test_dask_runs_nothing_for_who_has_not_its_certificate(
    kind: str, dask: str, secrets: Path, services: dict[str, Any], tmp_path: Path
) -> None:
    given = environment(services["worker"], secrets)
    if kind == "with another certificate":
        given = environment(services["worker"], made_secrets(tmp_path / "compose"))
        given["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"] = str(secrets / "dask.pem")
    elif kind == "without a certificate":
        given.pop("DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT")
    else:
        given = {name: value for name, value in given.items() if not name.startswith("DASK_")}
    refused = run(PLAIN, f"{'tcp' if kind == 'in clear' else 'tls'}://{dask}", env=given)
    assert refused.returncode != 0 and "code ran" not in refused.stdout
