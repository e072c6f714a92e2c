"""Metrics reach a real Pushgateway and node_exporter's folder; no error in them stops a run."""

from __future__ import annotations

import logging
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import Settings, SettingsError
from tasks.monitor.prometheus import Figures, send
from tasks.monitor.totals import RunningTotals
from tasks.monitor.watch import watching
from tasks.run.progress import Event, Report
from testbed.processes import answers, free_ports, wait_until

START_SECONDS = 60.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Pushgateway, Debian's."""
    (port,) = free_ports(1)
    command = ["prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path_factory.mktemp("gateway") / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    wait_until(lambda: answers(port), START_SECONDS)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def figures(run: str, units: int) -> Figures:
    running = RunningTotals()
    disk = {"disk_free_bytes": 5e9}
    running(Event("refine", units, "00000", units, 8, seconds=2.0, resources=disk, worker="one"))
    running(Event("report", values={"keep_ratio": {"car": 0.75}, "rejected_samples": {"area": 2}}))
    return Figures("nightly", run, running.totals)


def scraped(gateway: str) -> set[str]:
    with urllib.request.urlopen(f"{gateway}/metrics") as answer:
        return {line for line in answer.read().decode().splitlines() if line.startswith("segmint_")}


def test_a_gateway_holds_the_last_run_of_each_flow(gateway: str) -> None:
    send(figures("monday", 4), "nightly", gateway)
    send(figures("tuesday", 6), "nightly", gateway)
    lines = scraped(gateway)
    of = 'flow="nightly",instance="",job="segmint"'
    assert f'segmint_units_total{{{of},stage="refine",worker="one"}} 6' in lines
    assert f'segmint_keep_ratio{{class="car",{of}}} 0.75' in lines
    assert f'segmint_rejected_samples{{{of},reason="area"}} 2' in lines
    assert f'segmint_worker_disk_free_bytes{{{of},worker="one"}} 5e+09' in lines
    assert [line for line in lines if "run_info" in line] == [
        f'segmint_run_info{{{of},run="tuesday"}} 1'
    ]


def test_node_exporters_folder_has_one_file_per_flow(tmp_path: Path) -> None:
    send(figures("monday", 4), "nightly", str(tmp_path / "textfile"))
    send(figures("tuesday", 6), "nightly", str(tmp_path / "textfile"))
    (file,) = (tmp_path / "textfile").iterdir()
    assert file.name == "segmint-nightly.prom"
    assert 'segmint_units_total{flow="nightly",stage="refine",worker="one"} 6.0' in file.read_text()


def test_an_unreachable_gateway_is_logged_once_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = Settings(watch={"metrics": away, "seconds": 0.1})
    with caplog.at_level(logging.WARNING, "tasks.monitor.watch"), watching(settings):
        with Report("refine", "00000", 1) as report:
            report(1)
        wait_until(lambda: caplog.records, 10.0)
    (record,) = caplog.records
    assert "the run continues, but its progress cannot be published" in record.getMessage()
    assert record.run == "nightly"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://me:secret@gateway:9091", "has a user, a password"),
        ("http://gateway/?token=secret", "has a user, a password, a query"),
        ("ftp://gateway", "should be: Target of metrics: http"),
        ("", "should be: Target of metrics: http"),
    ],
)
def test_a_place_for_metrics_is_a_folder_or_a_gateway_without_a_password(
    place: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=rf"watch\.metrics .*{words}") as refused:
        Settings(watch={"metrics": place})
    assert "secret" not in str(refused.value)
