"""What the command line shows: tables, progress with rate and time left, one clear message for an error.

Whatever is shown goes through `visible`: a prompt or a file name from a bucket must not steer the terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Table
from rich.text import Text

from infra.text import visible

if TYPE_CHECKING:
    from tasks.progress import Event

__all__ = ["console", "duration", "facts", "fail", "mark", "progress", "say", "size", "table"]

console = Console(highlight=False)
_errors = Console(stderr=True, highlight=False)
PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


def fail(message: str) -> None:
    """Print an error, red on a terminal, without markup and unbroken."""
    _errors.print(Text(visible(message), style="red"), soft_wrap=True)


def say(message: str) -> None:
    """Print a line without markup, unbroken."""
    console.print(Text(visible(message)), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows of anything; numbers to the right."""
    shown = Table(title=Text(visible(title)), title_justify="left", title_style="bold", header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        shown.add_column(name, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(value if isinstance(value, Text) else Text(visible(str(value))) for value in row))
    console.print(shown)


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values, a line each, unbroken so that they can be copied."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        console.print(Text.assemble((f"{name:{width}}  ", "bold"), visible(str(value))), soft_wrap=True)


def mark(ok: bool) -> Text:
    """A tick or a cross, told apart without colour."""
    return Text("✓", style="green") if ok else Text("✗", style="bold red")


def duration(seconds: float) -> str:
    """Seconds as a person says it: `45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and bills count them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


class _Bars:
    """A bar a stage, on a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:11}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeLeft())
        self.progress = Progress(*columns, console=console)
        self._stages: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.stage not in self._stages:
                self._stages[event.stage] = self.progress.add_task(event.stage, total=None)
        task = self._stages[event.stage]
        if event.total is not None:
            self.progress.update(task, total=self.progress.tasks[task].completed + event.total)
        self.progress.advance(task, event.amount)


class _Lines:
    """Now and then a line a stage, where output goes to a file or a log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._begun: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            stage, now = event.stage, time.monotonic()
            if event.total is not None:
                self._total[stage] = self._done.get(stage, 0) + event.total
                return
            self._begun.setdefault(stage, now)
            self._done[stage] = self._done.get(stage, 0) + event.amount
            last = self._done[stage] == self._total.get(stage)
            if last or now - self._shown.get(stage, self._begun[stage]) >= PLAIN_SECONDS:
                self._shown[stage] = now
                console.print(self._line(stage, now), soft_wrap=True)

    def _line(self, stage: str, now: float) -> Text:
        done, total = self._done[stage], self._total.get(stage)
        rate = done / max(now - self._begun[stage], 1e-9)
        left = f" of {total} · {rate:.1f}/s · {duration((total - done) / rate)} left" if total and rate else ""
        return Text(f"{stage:11} {done}{left}")


@contextmanager
def progress() -> Iterator[None]:
    """Show the progress of every stage while the block lasts."""
    from tasks.progress import listening

    if not console.is_terminal:
        with listening(_Lines()):
            yield
        return
    bars = _Bars()
    with bars.progress, listening(bars):
        yield
