"""What the command line prints: tables, progress with rate and time left, errors.

All text goes through `visible`: a prompt or a file name from a bucket must not control the
terminal.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from infra.text import visible

if TYPE_CHECKING:
    from tasks.monitor.totals import RunningTotals
    from tasks.run.progress import Event

__all__ = [
    "as_json",
    "console",
    "duration",
    "facts",
    "fail",
    "mark",
    "progress",
    "say",
    "size",
    "table",
]

console = Console(highlight=False)
messages = Console(stderr=True, highlight=False)  # errors and progress, so that output can be piped
PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


def fail(message: str) -> None:
    """Print an error to standard error, red on a terminal, without markup and unwrapped."""
    messages.print(Text(visible(message), style="red"), soft_wrap=True)


def say(message: str) -> None:
    """Print a line without markup, unwrapped."""
    console.print(Text(visible(message)), soft_wrap=True)


def as_json(value: Any) -> None:
    """Print a value as JSON, for scripts."""
    print(json.dumps(value, indent=1, ensure_ascii=True))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows of any values, numbers aligned to the right.

    On a terminal, long texts fold at spaces, but a name never folds. Elsewhere the values of a row
    are separated by tabs, so that other programs can read them.
    """
    cells = [[visible(str(value)) for value in row] for row in rows]
    heading = visible(title)
    if not console.is_terminal:
        for line in [[heading], columns, *cells] if rows else [[heading]]:
            print("\t".join(line))
        return
    console.print(Text(heading, style="bold"), soft_wrap=True)
    if not rows:
        return
    shown = Table(header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        words = [word for row in cells for word in row[index].split()]
        longest = max(map(len, words), default=0)
        shown.add_column(name, justify="right" if numeric else "left", min_width=longest)
    for row in rows:
        shown.add_row(
            *(value if isinstance(value, Text) else Text(visible(str(value))) for value in row)
        )
    console.print(shown, crop=False)


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one pair per line, unwrapped so that they can be copied.

    An empty name continues the pair above it.
    """
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        console.print(
            Text.assemble((f"{name:{width}}  ", "bold"), visible(str(value))), soft_wrap=True
        )


def mark(ok: bool) -> Text:
    """Return a tick or a cross, which differ without colour too."""
    return Text("✓", style="green") if ok else Text("✗", style="bold red")


def duration(seconds: float) -> str:
    """Return seconds in words: `45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Return bytes in decimal units, as disks and bills count them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class _Bars:
    """One progress bar per stage, on a terminal."""

    def __init__(self, running: RunningTotals) -> None:
        columns = (
            TextColumn("{task.description:11}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
        )
        self.progress = Progress(*columns, console=messages)
        self._running = running
        self._lock = threading.Lock()
        self._bars: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        stage = self._running.stage(event.stage)
        if stage is None:
            return
        with self._lock:
            if event.stage not in self._bars:
                self._bars[event.stage] = self.progress.add_task(event.stage, total=1.0, words="")
        self.progress.update(self._bars[event.stage], completed=stage.share, words=stage.summary)


class _Lines:
    """A line per stage every `PLAIN_SECONDS` and at its end, where lines cannot be redrawn."""

    def __init__(self, running: RunningTotals) -> None:
        self._running = running
        self._lock = threading.Lock()
        self._printed: dict[str, tuple[float, str]] = {}

    def __call__(self, event: Event) -> None:
        stage = self._running.stage(event.stage)
        if stage is None:
            return
        with self._lock:
            seconds, words = self._printed.get(event.stage, (0.0, ""))
            due = (event.ended and stage.over) or stage.seconds - seconds >= PLAIN_SECONDS
            if due and words != stage.summary:
                self._printed[event.stage] = stage.seconds, stage.summary
                messages.print(Text(f"{event.stage:11} {stage.summary}"), soft_wrap=True)


@contextmanager
def progress() -> Iterator[None]:
    """Show the progress of every stage on standard error while the block runs."""
    from tasks.monitor.totals import RunningTotals
    from tasks.run.progress import listening

    running = RunningTotals()
    with listening(running):
        if not messages.is_terminal or messages.is_dumb_terminal:  # neither can redraw a line
            with listening(_Lines(running)):
                yield
            return
        bars = _Bars(running)
        with bars.progress, listening(bars):
            yield
