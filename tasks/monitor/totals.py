"""RunningTotals: what the events of a run add up to, for whoever shows it: rate, time left, work by worker,
figures.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from tasks.report.figures import as_duration
from tasks.run.progress import Event, Values

__all__ = ["Stage", "RunningTotals", "Totals", "Work"]


@dataclass
class Work:
    """What one worker has done of a stage: units, and the seconds that took it."""

    units: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """How far a stage is, as of its last event. Shards that were in the store before are no part of
    it.

    `share` of it is done, in [0, 1], at `rate` units a second of all workers together, with `left`
    seconds to go; `told` is all that in words, what matters most first, for Prefect's pages cut it
    off. None is what nobody knows yet.
    """

    share: float
    rate: float | None
    left: float | None
    failures: int
    told: str
    over: bool
    seconds: float


@dataclass
class _Counts:
    tasks: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    running: dict[str, tuple[int, int]] = field(default_factory=dict)  # units done, of how many
    units: int = 0
    failures: int = 0
    begun: float | None = None
    last: float = 0.0

    def hear(self, event: Event, now: float) -> None:
        self.tasks.update(event.awaited)
        self.ended.difference_update(event.awaited)  # what failed is done once more
        if event.name:
            self.begun = now if self.begun is None else self.begun
            self.last = now
            self.tasks.add(event.name)
            self.running[event.name] = event.done, event.of
            self.units += event.amount
            self.failures += event.failed
        if event.ended:
            self.ended.add(event.name)
            del self.running[event.name]

    def stage(self) -> Stage:
        seconds = self.last - self.begun if self.begun is not None else 0.0
        running = sum(done / max(of, 1) for done, of in self.running.values())
        share = min(1.0, (len(self.ended) + running) / max(len(self.tasks), 1))
        rate = self.units / seconds if self.units and seconds else None
        left = seconds * (1 - share) / share if share and seconds else None
        over = len(self.ended) == len(self.tasks)
        told = [f"{100 * share:.0f} %"]
        told += [f"{as_duration(left)} left"] if left else []
        told += [f"{rate:.1f}/s"] if rate else []
        return Stage(
            share, rate, left, self.failures, " · ".join([*told, self._counted()]), over, seconds
        )

    def _counted(self) -> str:
        """As `38 of 313 shards, 2432 done`; of one task alone its units, as `600 of 2000`."""
        if len(self.tasks) > 1:
            return f"{len(self.ended)} of {len(self.tasks)} shards, {self.units} done"
        (_, of), *_ = [*self.running.values(), (0, self.units)]
        return f"{self.units} of {of}"


@dataclass(frozen=True)
class Totals:
    """A running at one moment.

    `work` is by stage and worker, `resources` by worker, `values` by name and label.
    """

    stages: Mapping[str, Stage]
    work: Mapping[tuple[str, str], Work]
    resources: Mapping[str, Mapping[str, float]]
    values: Values


class RunningTotals:
    """Listens to the events of a run, from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._stages: dict[str, _Counts] = defaultdict(_Counts)
        self._work: dict[tuple[str, str], Work] = defaultdict(Work)
        self._resources: dict[str, Mapping[str, float]] = {}
        self._values: dict[str, Mapping[str, float]] = {}

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        with self._lock:
            if event.name or event.awaited:
                self._stages[event.stage].hear(event, self._clock())
            if event.seconds:
                work = self._work[event.stage, event.worker]
                work.units += event.amount
                work.seconds += event.seconds
            if event.resources:
                self._resources[event.worker] = event.resources
            self._values |= event.values

    def stage(self, name: str) -> Stage | None:
        """How far a stage is; None if nobody has told of it."""
        with self._lock:
            return self._stages[name].stage() if name in self._stages else None

    def totals(self) -> Totals:
        """All that it knows now."""
        with self._lock:
            stages = {name: counts.stage() for name, counts in self._stages.items()}
            return Totals(
                stages, deepcopy(dict(self._work)), dict(self._resources), dict(self._values)
            )
