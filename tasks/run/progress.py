"""Progress of long tasks: stages report units done, listeners receive each event.

Stages know nothing of consoles, metrics or Prefect's UI. A listener receives the events of its own
process. In a flow's process it also receives those of the flow's Dask workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import TracebackType

from infra.clusters import hear_workers, send_from_worker
from infra.logs import located
from infra.machine import machine_name, resources

__all__ = ["Event", "Report", "announce", "from_workers", "give_up", "listening", "measured"]

_RESOURCE_SECONDS = 5.0  # between two measurements of disk and GPU; each takes under a millisecond
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Event:
    """One report of a task: `amount` more units (samples or training steps) of `stage` are done.

    `name` identifies the task within its stage: a shard, a fold or a version. `done` of its `of`
    units are done and `seconds` have passed since its last event. `ended` and `failed` mark its
    end. An announcement has only `awaited`, the names of the tasks to come. `values` are figures by
    name and label, such as `{"keep_ratio": {"car": 0.8}}`. `resources` are those of the worker.
    """

    stage: str
    amount: int = 0
    name: str = ""
    done: int = 0
    of: int = 0
    seconds: float = 0.0
    ended: bool = False
    failed: bool = False
    awaited: tuple[str, ...] = ()
    values: Values = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    worker: str = field(default_factory=machine_name)


Listener = Callable[[Event], None]
_listeners: list[Listener] = []
_measured_at = -_RESOURCE_SECONDS  # monotonic seconds


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass every event of this process to `listener` while the block lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(stage: str, names: Iterable[str]) -> None:
    """Report the tasks of a stage before they begin, or before they are tried again.

    A task that was not announced counts from its first event on.
    """
    _emit(Event(stage, awaited=tuple(names)))


def give_up(stage: str, name: str) -> None:
    """Report that a task failed and is not tried again."""
    _emit(Event(stage, name=name, ended=True, failed=True))


def measured(stage: str, values: Values) -> None:
    """Report figures by name and label."""
    _emit(Event(stage, values=values))


def from_workers() -> None:
    """Pass events of the calling flow's Dask workers to this process's listeners until it ends."""
    hear_workers(lambda sent: _deliver(Event(**{**sent, "awaited": tuple(sent["awaited"])})))


def _emit(event: Event) -> None:
    _deliver(event)
    send_from_worker(lambda: asdict(event))


def _deliver(event: Event) -> None:
    for listener in tuple(_listeners):
        listener(event)


class Report:
    """Counts the units of one task. Use it as a context and call it with every batch done."""

    def __init__(self, stage: str, name: str, total: int) -> None:
        self._stage = stage
        self._name = name
        self._total = total
        self._done = 0

    def __enter__(self) -> Report:
        self._location = located(stage=self._stage)
        self._location.__enter__()
        self._last = time.monotonic()
        self(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self(0, ended=True)
        self._location.__exit__(kind, error, trace)

    def __call__(self, amount: int, ended: bool = False) -> None:
        """Report that `amount` more units are done."""
        now = time.monotonic()
        self._done += amount
        event = Event(
            self._stage,
            amount,
            self._name,
            self._done,
            self._total,
            now - self._last,
            ended,
            resources=_resources(now),
        )
        self._last = now
        _emit(event)

    def complete(self) -> None:
        """Report all units that were not reported yet."""
        if self._done < self._total:
            self(self._total - self._done)


def _resources(now: float) -> dict[str, float]:
    """Disk and GPU of this machine, at most once per `_RESOURCE_SECONDS`; else nothing."""
    global _measured_at
    if now - _measured_at < _RESOURCE_SECONDS:
        return {}
    _measured_at = now
    return resources()
