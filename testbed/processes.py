"""Servers of tests as processes: started apart from us, stopped in good order or as by a power cut,
waited for.
"""

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
    """A process in a session of its own, so that no signal to us reaches it; what it says goes into
    `log`.
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
    """Send all of them a signal, SIGKILL to their children as well, wait until they are gone, and
    forget them.
    """
    for process in processes:
        if number == signal.SIGKILL:
            with suppress(ProcessLookupError):  # all of them are gone
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
    """`wait_until` servers are ready; those that are not in time are killed."""
    try:
        wait_until(ready, seconds, otherwise)
    except AssertionError:
        end(servers, signal.SIGKILL)
        raise


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    condition: Callable[[], Found], seconds: float, otherwise: Callable[[], str] = lambda: ""
) -> Found:
    """What `condition` returns once that is true;

    AssertionError with what `otherwise` says if it never is.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise() or f"still not so after {seconds:g} s"
        time.sleep(0.1)
    return found
