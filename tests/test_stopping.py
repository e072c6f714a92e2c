"""`segmint` stopped in a terminal: what the user sees, what stays, and whether it continues."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    temporary_settings,
)

from benchmarks.stopping import CONFIG, WORK, Lane, Terminal
from infra.local_server import prefect_api
from testbed.processes import wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]
SECONDS = 600.0  # for a command to reach its first shard, on a busy machine


@contextmanager
def segmint(folder: Path, *words: str, **environment: str) -> Iterator[Terminal]:
    """Run a command with the configuration of `benchmarks.stopping`, but for minutes."""
    config = folder / "two words.toml"
    lasting = CONFIG.replace("images = 8", "images = 200")
    config.write_text(lasting.format(store=folder / "store"))
    command = [sys.executable, "-m", "segmint", *words, "--config", str(config)]
    terminal = Terminal(command, {"PREFECT_HOME": str(folder / "prefect"), **environment})
    try:
        yield terminal
    finally:
        terminal.close()


def works(terminal: Terminal) -> None:
    """Wait until the first shard is being made."""
    begun = "synthesize"
    wait_until(lambda: begun in terminal.said() or terminal.ended_within(0), SECONDS, terminal.said)
    assert begun in terminal.said(), terminal.said()


def test_a_run_stopped_in_three_ways_leaves_nothing_and_continues_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "home").mkdir()
    lane = Lane(tmp_path / "lane", WORK[0], before=tmp_path / "store", home=tmp_path / "home")
    lane.measure()
    found = lane.stopped_often(1)
    assert max(found.seconds[signal.SIGINT] + found.seconds[signal.SIGTERM]) <= 10
    assert (found.left, found.wrong_codes, found.different) == (0, 0, 0)
    assert found.completed >= 1


def test_ctrl_c_says_how_to_continue(tmp_path: Path) -> None:
    with segmint(tmp_path, "run", "--no-train") as terminal:
        works(terminal)
        terminal.stop(signal.SIGINT)
        assert terminal.process.wait(10) == 130
        assert terminal.left(grace=0) == 0
    command = f"segmint run --no-train --config '{tmp_path / 'two words.toml'}'"
    assert "Stopped. To continue, run the same command again:" in terminal.said()
    assert command in terminal.said()


def test_dask_s_workers_share_one_temporary_server_and_end_with_the_run(tmp_path: Path) -> None:
    workers = ("--set", "compute.runner=dask-local", "--set", "compute.workers=2")
    with segmint(tmp_path, "run", "--no-train", *workers) as terminal:
        works(terminal)
        servers = [line for line in terminal.commands() if "server" in line]
        terminal.stop(signal.SIGTERM)
        assert terminal.process.wait(10) == 143
        assert terminal.left(grace=0) == 0
    assert len(servers) == 1
    assert "infra.local_server" in servers[0]
    assert "distributed" not in terminal.said()


def test_a_stopped_run_is_cancelled_on_the_user_s_own_server(tmp_path: Path) -> None:
    with ExitStack() as stack:
        # The flows' tests leave their server's URL and database in the settings of the process.
        own_server = temporary_settings(
            {PREFECT_HOME: tmp_path / "prefect"},
            restore_defaults={PREFECT_API_URL, PREFECT_API_DATABASE_CONNECTION_URL},
        )
        stack.enter_context(own_server)
        stack.enter_context(prefect_api())
        url = PREFECT_API_URL.value() or ""
        client = stack.enter_context(get_client(sync_client=True))
        terminal = stack.enter_context(segmint(tmp_path, "run", "--no-train", PREFECT_API_URL=url))
        works(terminal)
        assert [line for line in terminal.commands() if "server" in line] == []
        assert {run.state_name for run in client.read_flow_runs()} == {"Running"}
        terminal.stop(signal.SIGINT)
        assert terminal.process.wait(10) == 130
        states = {run.name: run.state_name for run in client.read_flow_runs()}
    assert states == {"stopping": "Cancelled", "stopping shards": "Cancelled"}
