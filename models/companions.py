"""The other processes of a training: started, watched, and never left behind."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context
from threading import Thread
from typing import Any, NamedTuple

__all__ = ["Companion", "DeadProcessError", "end_with", "first_failure", "watched"]

_PDEATHSIG = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_NOTICE_SECONDS = 3.0  # for the kernel to report the end of a process whose connection closed
_END_SECONDS = 10.0  # for a process whose work is done


class DeadProcessError(RuntimeError):
    """A process of a training was killed."""


class _Failure(NamedTuple):
    """What a process raised, and when, in seconds since the machine started."""

    seconds: float
    error: Exception


class Companion:
    """One of several processes, which calls `work(ready, *arguments)` and calls `ready` in it.

    It may have processes of its own, such as those that load data.
    """

    def __init__(
        self, rank: int, count: int, work: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        self.name = f"process {rank} of {count} of the training (ranks 0 to {count - 1})"
        context = get_context("spawn")
        self._messages, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(theirs, work, arguments))
        self._process.start()
        theirs.close()  # so that the pipe closes when the process ends

    @property
    def sentinel(self) -> int:
        """What becomes ready when the process ends."""
        return self._process.sentinel

    def wait_until_ready(self) -> None:
        """Wait until the process calls `ready`. Raises `RuntimeError` if it ends before."""
        try:
            self._messages.recv()
        except EOFError:
            raise RuntimeError(f"{self.name} could not start") from None

    @property
    def has_failed(self) -> bool:
        """Whether the process has ended before its work was done."""
        return bool(self._process.exitcode)

    def failure(self) -> _Failure | None:
        """Return what the process raised, or that it was killed; None if neither."""
        code = self._process.exitcode
        if code is not None and code < 0:
            return _Failure(
                0.0,
                DeadProcessError(
                    f"{self.name} was killed ({signal.Signals(-code).name}; was memory short?); "
                    "the same command continues from the last snapshot"
                ),
            )
        with suppress(EOFError, OSError):
            while self._messages.poll():
                failure: _Failure | None = self._messages.recv()
                if failure:
                    return failure
        return None

    def end(self, *, killed: bool) -> None:
        """Wait for the process to end; kill it at once if `killed`."""
        if not killed:
            self._process.join(_END_SECONDS)
        self._process.kill()
        self._process.join()
        self._messages.close()


def _run(
    messages: connection.Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    try:
        work(lambda: messages.send(None), *arguments)
    except BaseException as error:  # raised again by the first process
        with suppress(BrokenPipeError):
            messages.send(_Failure(time.monotonic(), _portable(error)))
        raise SystemExit(1) from None


def _portable(error: BaseException) -> Exception:
    """Return the error if it survives pickling, and else one with the same text."""
    with suppress(Exception):
        if isinstance(error, Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def first_failure(others: Sequence[Companion]) -> Exception | None:
    """Return why the first process failed: it was killed, or raised before the others did.

    The others fail then, because their connection to it closes.
    """
    connection.wait([each.sentinel for each in others], _NOTICE_SECONDS)
    failures = [failure for failure in (each.failure() for each in others) if failure]
    return min(failures, key=lambda failure: failure.seconds).error if failures else None


@contextmanager
def watched(others: Sequence[Companion], on_failure: Callable[[], None] | None) -> Iterator[None]:
    """Call `on_failure` in another thread as soon as a process fails."""
    if on_failure is None:
        yield
        return
    stop, stopped = os.pipe()
    waiter = Thread(target=_watch, args=(others, stop, on_failure), daemon=True)
    waiter.start()
    try:
        yield
    finally:
        os.close(stopped)
        waiter.join()
        os.close(stop)


def _watch(others: Sequence[Companion], stop: int, on_failure: Callable[[], None]) -> None:
    waiting: dict[int, Companion] = {each.sentinel: each for each in others}
    while waiting:
        ready = connection.wait([stop, *waiting])
        if stop in ready:
            return
        if any(waiting.pop(int(str(each))).has_failed for each in ready):
            on_failure()
            return


def end_with(parent: int) -> None:
    """Let the kernel kill this process when the thread of process `parent` ends that started it."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
