"""Servers as processes: started in sessions of their own, awaited, and stopped or killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["answers", "end", "free_ports", "spawned", "wait_for", "wait_until"]

Found = TypeVar("Found")


def spawned(command: Sequence[str | Path], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, where signals to ours do not reach it.

    Its output is appended to `log`.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            **options,
        )


def end(processes: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """Send a signal to all processes, wait for their end, and empty the list.

    SIGKILL goes to their children as well.
    """
    for process in processes:
        if number == signal.SIGKILL:
            with suppress(ProcessLookupError):  # the whole group has ended
                os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    for process in processes:
        process.wait()
    processes.clear()


def wait_for(
    servers: list[subprocess.Popen[bytes]],
    ready: Callable[[], object],
    seconds: float,
    otherwise: Callable[[], str],
) -> None:
    """Wait until servers are ready, as `wait_until`; if they are not in time, kill them."""
    try:
        wait_until(ready, seconds, otherwise)
    except AssertionError:
        end(servers, signal.SIGKILL)
        raise


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which nothing listens now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    condition: Callable[[], Found | None], seconds: float, otherwise: Callable[[], str] = lambda: ""
) -> Found:
    """Return what `condition` returns, as soon as that is true.

    Raises `AssertionError` with the text of `otherwise` if it is not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise() or f"still not true after {seconds:g} s"
        time.sleep(0.1)
    return found
