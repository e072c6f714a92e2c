"""Run a command so that it stops within seconds and leaves no process behind.

`supervise` forks before anything large is imported. The parent, the supervisor, is what the user
and the shell see: it only waits for signals and for its child. The child does the work in a session
of its own, so no signal of the terminal reaches it. Everything that the child starts (Prefect's
temporary server, Dask's workers, processes that read data) stays in the child's process group, and
one SIGKILL ends the whole group. That is safe at any moment, because whatever a run needs to
continue is in the store.

The child reads from a pipe that only the supervisor can write to. When the pipe closes, because the
user stops the command or because the supervisor was killed, the child ends its own group.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

__all__ = ["on_stop", "supervise"]

REPORT_SECONDS = 5.0  # for the callbacks of `on_stop`, such as telling a Prefect server
STOP_SECONDS = 6.0  # from the signal to SIGKILL, if the child does not end by itself
GONE_SECONDS = 2.0  # for the killed group to disappear before the prompt returns
SHOW_CURSOR = "\x1b[?25h"  # a progress bar that is killed leaves the cursor hidden

_on_stop: list[Callable[[], None]] = []


def on_stop(callback: Callable[[], None]) -> None:
    """Call `callback` in another thread when the command is stopped, before its processes end.

    All callbacks together have `REPORT_SECONDS`. Without a supervisor they are never called.
    """
    _on_stop.append(callback)


def supervise(again: str) -> None:
    """Fork, and return in the child alone; the supervisor exits when the child has ended.

    The supervisor's exit code is the child's. If SIGINT, SIGTERM or SIGHUP stops the command, the
    supervisor says so and exits with 128 plus the signal's number. A second signal kills the child
    at once. If another process killed the child, the exit code is 2. `again` ends both messages: it
    says how to continue.
    """
    stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    stops = {number for number in stops if signal.getsignal(number) is not signal.SIG_IGN}
    waited = stops | {signal.SIGCHLD, signal.SIGALRM, signal.SIGTSTP}
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        Thread(target=_end_with, args=(reader,), name="supervision", daemon=True).start()
        return
    os.close(reader)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the default would discard the signal
    number, status = _wait(child, writer, waited)
    _kill_group(child)
    _exit(number, status, again)


def _end_with(reader: int) -> None:
    """Wait until the supervisor closes the pipe or dies, then end this process group."""
    os.read(reader, 1)
    reports = Thread(target=_report, daemon=True)
    reports.start()
    reports.join(REPORT_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _report() -> None:
    for callback in _on_stop:
        with suppress(Exception):  # a server that is away must not keep the user waiting
            callback()


def _wait(child: int, writer: int, waited: set[signal.Signals]) -> tuple[int | None, int]:
    """Return the signal that stopped the command, if one did, and the child's wait status."""
    stopped_by = None
    while True:
        number = signal.sigwait(waited)
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return stopped_by, status
        elif number == signal.SIGTSTP:
            _suspend(child)
        elif stopped_by is None:
            stopped_by = number
            os.close(writer)
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
        else:
            os.killpg(child, signal.SIGKILL)


def _suspend(child: int) -> None:
    """Stop the group and this process, as Ctrl-Z asks; continue both when the shell does."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.killpg(child, signal.SIGCONT)


def _kill_group(leader: int) -> None:
    """Kill what is left of a process group, and wait until it has gone."""
    deadline = time.monotonic() + GONE_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(leader, signal.SIGKILL)
            time.sleep(0.02)
            with suppress(ChildProcessError):  # orphans are ours if we are a container's process 1
                os.waitpid(-1, os.WNOHANG)


def _exit(number: int | None, status: int, again: str) -> None:
    code = os.waitstatus_to_exitcode(status)
    if number is None and code >= 0:
        sys.exit(code)
    if sys.stdout.isatty():
        print(SHOW_CURSOR, flush=True)
    if number is not None:
        print(f"Stopped.{again}", file=sys.stderr)
        sys.exit(128 + number)
    by = signal.Signals(-code).name
    print(f"{by} from outside ended the command; was memory short?{again}", file=sys.stderr)
    sys.exit(2)
