"""Progress of long tasks: one place that stages report to, whoever is watching.

Stages know nothing of consoles, metrics or Prefect's UI. They report units done; listeners of this
process hear of each, and those of a flow's process hear what its Dask workers report as well.
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

_RESOURCE_SECONDS = 5.0  # between two looks at disk and GPU; each takes a fraction of a millisecond
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Event:
    """What a task says: `amount` more units (samples, or steps of a training) of `stage` are done.

    `name` is the task's within its stage: a shard, a fold, a version. `done` of its `of` units are
    done, `seconds` passed since its last event; it may have `ended`, or have `failed`. An
    announcement has the names of what is `awaited` in the place of all that. `values` are figures
    by name and label, such as `{"keep_ratio": {"car": 0.8}}`; `resources` are the worker's.
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
_looked = -_RESOURCE_SECONDS


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear every event of this process while the block lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(stage: str, names: Iterable[str]) -> None:
    """Say which tasks `stage` has before they begin, or that they will be done again; others
    announce themselves.
    """
    _tell(Event(stage, awaited=tuple(names)))


def give_up(stage: str, name: str) -> None:
    """Say that a task is given up."""
    _tell(Event(stage, name=name, ended=True, failed=True))


def measured(stage: str, values: Values) -> None:
    """Say what was found out, by name and label."""
    _tell(Event(stage, values=values))


def from_workers() -> None:
    """Let the listeners of this process hear the Dask workers of the flow that calls this, until it
    ends.
    """
    hear_workers(lambda told: _hear(Event(**{**told, "awaited": tuple(told["awaited"])})))


def _tell(event: Event) -> None:
    _hear(event)
    send_from_worker(lambda: asdict(event))


def _hear(event: Event) -> None:
    for listener in tuple(_listeners):
        listener(event)


class Report:
    """Counts the units of one task: call it with every batch done."""

    def __init__(self, stage: str, name: str, total: int) -> None:
        self._stage, self._name, self._total = stage, name, total
        self._done = 0

    def __enter__(self) -> Report:
        self._place = located(stage=self._stage)
        self._place.__enter__()
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
        self._place.__exit__(kind, error, trace)

    def __call__(self, amount: int, ended: bool = False) -> None:
        """`amount` more units are done."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._done += amount
        machine = _resources(now)
        _tell(
            Event(
                self._stage,
                amount,
                self._name,
                self._done,
                self._total,
                seconds,
                ended,
                resources=machine,
            )
        )


def _resources(now: float) -> dict[str, float]:
    """Those of this machine, now and then."""
    global _looked
    if now - _looked < _RESOURCE_SECONDS:
        return {}
    _looked = now
    return resources()
