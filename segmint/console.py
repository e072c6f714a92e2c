"""What the command line shows: tables, progress with rate and time left, one clear message for an
error.

Whatever is shown goes through `visible`: a prompt or a file name from a bucket must not steer the
terminal.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from infra.text import visible

if TYPE_CHECKING:
    from tasks.monitor.totals import Tally
    from tasks.run.progress import Event

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
    shown = Table(
        title=Text(visible(title)), title_justify="left", title_style="bold", header_style="bold"
    )
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        shown.add_column(name, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        shown.add_row(
            *(value if isinstance(value, Text) else Text(visible(str(value))) for value in row)
        )
    console.print(shown)


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values, a line each, unbroken so that they can be copied."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        console.print(
            Text.assemble((f"{name:{width}}  ", "bold"), visible(str(value))), soft_wrap=True
        )


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


class _Bars:
    """A bar a stage, on a terminal."""

    def __init__(self, tally: Tally) -> None:
        columns = (
            TextColumn("{task.description:11}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self.progress = Progress(*columns, console=console)
        self._tally, self._lock = tally, threading.Lock()
        self._bars: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        stage = self._tally.stage(event.stage)
        if stage is None:
            return
        with self._lock:
            if event.stage not in self._bars:
                self._bars[event.stage] = self.progress.add_task(event.stage, total=1.0, told="")
        self.progress.update(self._bars[event.stage], completed=stage.share, told=stage.told)


class _Lines:
    """Now and then a line a stage, where output goes to a file or a log."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._lock = tally, threading.Lock()
        self._shown: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        stage = self._tally.stage(event.stage)
        if stage is None:
            return
        with self._lock:
            if (event.ended and stage.over) or stage.seconds - self._shown.get(
                event.stage, 0
            ) >= PLAIN_SECONDS:
                self._shown[event.stage] = stage.seconds
                console.print(Text(f"{event.stage:11} {stage.told}"), soft_wrap=True)


@contextmanager
def progress() -> Iterator[None]:
    """Show the progress of every stage while the block lasts."""
    from tasks.monitor.totals import Tally
    from tasks.run.progress import listening

    tally = Tally()
    with listening(tally):
        if not console.is_terminal:
            with listening(_Lines(tally)):
                yield
            return
        bars = _Bars(tally)
        with bars.progress, listening(bars):
            yield
