"""Progress of long tasks: one place that stages report to, whoever is watching.

Stages know nothing of consoles or of Prefect's UI. They report images done; listeners of this process (the command line
adds one) hear of each, and inside a Prefect run a progress artifact moves as well, at most every few seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

__all__ = ["Event", "Report", "announce", "listening"]

_ARTIFACT_SECONDS = 5.0  # each update is a call to the server


class Event(NamedTuple):
    """`amount` more units of `stage` are done (0: a task of it starts); with `total`, that many more are to be done."""

    stage: str
    amount: int
    total: int | None = None


Listener = Callable[[Event], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear every event of this process while the block lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(stage: str, total: int) -> None:
    """Say how many units `stage` has before it begins."""
    _tell(Event(stage, 0, total))


def _tell(event: Event) -> None:
    for listener in tuple(_listeners):
        listener(event)


class Report:
    """Counts the units of one task: call it with every batch done."""

    def __init__(self, stage: str, name: str, total: int) -> None:
        self._stage, self._name, self._total = stage, name, total
        self._done = 0
        self._artifact: UUID | None = None
        self._shown = 0.0

    def __enter__(self) -> Report:
        self._started = time.monotonic()
        _tell(Event(self._stage, 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._show()

    def __call__(self, amount: int) -> None:
        """`amount` more units are done."""
        self._done += amount
        _tell(Event(self._stage, amount))
        if time.monotonic() - self._shown > _ARTIFACT_SECONDS:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        if TaskRunContext.get() is None:
            return
        percent, text = 100 * self._done / max(self._total, 1), self._describe()
        if self._artifact is None:
            key = re.sub("[^a-z0-9-]", "-", f"{self._stage}-{self._name}".lower())  # all that Prefect takes
            self._artifact = _identity(create_progress_artifact(percent, key=key, description=text))
        else:
            update_progress_artifact(self._artifact, percent, text)

    def _describe(self) -> str:
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        return f"{self._done} of {self._total} · {rate:.1f}/s · {left:.0f} s left"


def _identity(created: object) -> UUID:
    if not isinstance(created, UUID):
        raise TypeError(f"a task's progress artifact must be made synchronously, got {type(created).__name__}")
    return created
