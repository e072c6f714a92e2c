"""Totals: what the events of a run add up to: progress, rate, remaining time, work per worker."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from tasks.report.figures import as_duration
from tasks.run.progress import Event, Values

__all__ = ["RunningTotals", "StageProgress", "Totals", "Work"]


@dataclass
class Work:
    """Units of a stage that one worker has done, and the seconds that it took."""

    units: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class StageProgress:
    """Progress of a stage as of its last event; shards finished in earlier runs do not count.

    `share` in [0, 1] is done, at `rate` units per second of all workers together, with `left`
    seconds to go; None is unknown. `summary` is all of it as text, the most important first because
    Prefect's UI truncates it. `over` says that all tasks ended, `seconds` is the time from the
    first event to the last one.
    """

    share: float
    rate: float | None
    left: float | None
    failures: int
    summary: str
    over: bool
    seconds: float


@dataclass
class _StageCounts:
    tasks: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    running: dict[str, tuple[int, int]] = field(default_factory=dict)  # units done, units in all
    units: int = 0
    failures: int = 0
    begun: float | None = None
    last: float = 0.0

    def add(self, event: Event, now: float) -> None:
        self.tasks.update(event.awaited)
        self.ended.difference_update(event.awaited)  # what failed is tried again
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

    def progress(self) -> StageProgress:
        seconds = self.last - self.begun if self.begun is not None else 0.0
        running = sum(done / max(of, 1) for done, of in self.running.values())
        share = min(1.0, (len(self.ended) + running) / max(len(self.tasks), 1))
        rate = self.units / seconds if self.units and seconds else None
        left = seconds * (1 - share) / share if share and seconds else None
        over = len(self.ended) == len(self.tasks)
        parts = [f"{100 * share:.0f} %"]
        parts += [f"{as_duration(left)} left"] if left else []
        parts += [f"{rate:.1f}/s"] if rate else []
        summary = " · ".join([*parts, self._counted()])
        return StageProgress(share, rate, left, self.failures, summary, over, seconds)

    def _counted(self) -> str:
        """Return `38 of 313 shards, 2432 done`, or for a single task `600 of 2000`."""
        if len(self.tasks) > 1:
            return f"{len(self.ended)} of {len(self.tasks)} shards, {self.units} done"
        (_, of), *_ = [*self.running.values(), (0, self.units)]
        return f"{self.units} of {of}"


@dataclass(frozen=True)
class Totals:
    """The totals at one moment.

    `stages` are by name, `work` by stage and worker, `resources` by worker, `values` by name and
    label.
    """

    stages: Mapping[str, StageProgress]
    work: Mapping[tuple[str, str], Work]
    resources: Mapping[str, Mapping[str, float]]
    values: Values


class RunningTotals:
    """A listener that adds up the events of a run; safe to call from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stages: dict[str, _StageCounts] = defaultdict(_StageCounts)
        self._work: dict[tuple[str, str], Work] = defaultdict(Work)
        self._resources: dict[str, Mapping[str, float]] = {}
        self._values: dict[str, Mapping[str, float]] = {}

    def __call__(self, event: Event) -> None:
        """Add an event."""
        with self._lock:
            if event.name or event.awaited:
                self._stages[event.stage].add(event, self._clock())
            if event.seconds:
                work = self._work[event.stage, event.worker]
                work.units += event.amount
                work.seconds += event.seconds
            if event.resources:
                self._resources[event.worker] = event.resources
            self._values |= event.values

    def stage(self, name: str) -> StageProgress | None:
        """Return the progress of a stage; None without an event of it."""
        with self._lock:
            return self._stages[name].progress() if name in self._stages else None

    def totals(self) -> Totals:
        """Return everything added up so far."""
        with self._lock:
            stages = {name: counts.progress() for name, counts in self._stages.items()}
            work = deepcopy(dict(self._work))
            return Totals(stages, work, dict(self._resources), dict(self._values))
