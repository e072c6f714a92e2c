"""Commands under a supervisor, in terminals of their own; each is a few lines of Python."""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.stopping import Terminal
from testbed.processes import wait_until

pytestmark = pytest.mark.slow  # each starts processes and waits for their end

Start = Callable[..., Terminal]
PROGRAM = """
import subprocess, sys, time
from infra.supervision import on_stop, supervise
supervise(" To continue: COMMAND")
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
def child():
    subprocess.Popen([sys.executable, "-c", CHILD])
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program that continues with `lines` after `PROGRAM`."""
    with ExitStack() as stack:

        def started(lines: str, before: str = "") -> Terminal:
            program = tmp_path / "program.py"
            program.write_text(before + PROGRAM + textwrap.dedent(lines))
            path = {"PYTHONPATH": str(Path(__file__).parents[2])}
            terminal = Terminal([sys.executable, str(program)], path)
            stack.callback(terminal.close)
            return terminal

        yield started


def ready(terminal: Terminal) -> None:
    wait_until(lambda: "ready" in terminal.said(), 60, terminal.said)


WORKING = "child(); print('ready', flush=True); time.sleep(600)"


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_a_command_and_all_that_it_started(
    start: Start, way: signal.Signals
) -> None:
    terminal = start(WORKING)
    ready(terminal)
    terminal.stop(way)
    assert terminal.process.wait(10) == 128 + way
    assert terminal.left(grace=0) == 0
    wait_until(lambda: "Stopped. To continue: COMMAND" in terminal.said(), 5, terminal.said)


def test_nothing_is_left_when_the_supervisor_is_killed(start: Start) -> None:
    terminal = start(WORKING)
    ready(terminal)
    terminal.process.kill()
    terminal.process.wait()
    assert terminal.left(grace=5) == 0


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_exit_code_is_that_of_the_command(start: Start, code: int) -> None:
    terminal = start(f"child(); sys.exit({code})")
    assert terminal.process.wait(60) == code
    assert terminal.left(grace=0) == 0


def test_a_command_that_another_process_killed_says_so_and_exits_with_2(start: Start) -> None:
    terminal = start("child(); import os; os.kill(os.getpid(), 9)")
    assert terminal.process.wait(60) == 2
    assert terminal.left(grace=0) == 0
    message = "SIGKILL from outside ended the command; was memory short? To continue: COMMAND"
    wait_until(lambda: message in terminal.said(), 5, terminal.said)


def test_a_stop_is_reported_before_the_command_ends(start: Start) -> None:
    terminal = start("on_stop(lambda: print('reported', flush=True))" + "\n" + WORKING)
    ready(terminal)
    terminal.stop(signal.SIGINT)
    assert terminal.process.wait(10) == 130
    wait_until(lambda: "reported" in terminal.said(), 5, terminal.said)


def test_a_report_that_takes_too_long_delays_the_prompt_by_seconds_only(start: Start) -> None:
    terminal = start("on_stop(lambda: time.sleep(600))" + "\n" + WORKING)
    ready(terminal)
    terminal.stop(signal.SIGINT)
    assert terminal.process.wait(10) == 130
    assert terminal.left(grace=0) == 0


def test_a_second_signal_ends_the_command_at_once(start: Start) -> None:
    terminal = start("on_stop(lambda: time.sleep(600))" + "\n" + WORKING)
    ready(terminal)
    terminal.stop(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    terminal.stop(signal.SIGINT)
    assert terminal.process.wait(10) == 130
    assert time.monotonic() - began < 2.5


def test_a_command_that_hears_nothing_is_killed(start: Start) -> None:
    deaf = "import ctypes; print('ready', flush=True); ctypes.PyDLL(None).sleep(600)"
    terminal = start(deaf)  # PyDLL keeps the interpreter's lock, so no thread of it runs
    ready(terminal)
    terminal.stop(signal.SIGINT)
    assert terminal.process.wait(12) == 130
    assert terminal.left(grace=0) == 0


def test_a_command_survives_the_hang_up_that_nohup_ignores(start: Start) -> None:
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    terminal = start("print('ready', flush=True); time.sleep(1); sys.exit(7)", before=nohup)
    ready(terminal)
    terminal.stop(signal.SIGHUP)
    assert terminal.process.wait(60) == 7


def test_ctrl_z_suspends_the_command_until_it_is_continued(start: Start, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    terminal = start(
        f"""
        print("ready", flush=True)
        while True:
            open({str(ticks)!r}, "a").write("x")
            time.sleep(0.05)
        """
    )
    ready(terminal)
    terminal.stop(signal.SIGTSTP)
    time.sleep(1)
    suspended = ticks.stat().st_size
    time.sleep(0.5)
    assert ticks.stat().st_size == suspended
    terminal.stop(signal.SIGCONT)
    wait_until(lambda: ticks.stat().st_size > suspended, 10)
    terminal.stop(signal.SIGINT)
    assert terminal.process.wait(10) == 130
