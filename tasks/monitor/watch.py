"""Watch: lets a run be followed, from events alone: in Prefect's UI, as Prometheus metrics, as
lines of JSON.

All of it hangs on the one place that stages report to, and nothing of it can stop a run.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec

from prefect.context import FlowRunContext

from infra.logs import located
from infra.machine import free_space
from infra.settings import Settings
from tasks.monitor.prefect_ui import ProgressArtifacts
from tasks.monitor.prometheus import Figures, send
from tasks.monitor.totals import RunningTotals
from tasks.run.progress import Event, listening, measured

__all__ = ["watching"]

_logger = logging.getLogger(__name__)
Show = Callable[[], None]
P = ParamSpec("P")


@contextmanager
def watching(settings: Settings) -> Iterator[None]:
    """Follow the run of these settings while the block lasts; the flow that calls this is the one
    that is followed.
    """
    watch, running, context = settings.watch, RunningTotals(), FlowRunContext.get()
    flow = context.flow.name if context and context.flow else "segmint"
    shows: list[Show] = [lambda: _measure_store(settings.store.url)]
    if context and context.flow_run:
        artifacts = ProgressArtifacts(context.flow_run.id)
        shows.append(lambda: artifacts.show(running.totals()))
    if watch.metrics:
        figures, place = Figures(flow, settings.name, running.totals), watch.metrics
        shows.append(lambda: send(figures, flow, place))
    with ExitStack() as stack:
        stack.enter_context(located(run=settings.name))
        stack.enter_context(listening(running))
        if watch.lines:
            stack.enter_context(_lines(watch.lines, flow, settings.name))
        stack.enter_context(_again_and_again(shows, watch.seconds))
        yield


@contextmanager
def _lines(place: str, flow: str, run: str) -> Iterator[None]:
    """Write each event as a line of JSON to standard error ("-"), or to RUN.jsonl in a folder."""
    if place != "-":
        Path(place).mkdir(parents=True, exist_ok=True)
    with (
        nullcontext(sys.stderr)
        if place == "-"
        else (Path(place) / f"{run}.jsonl").open("a") as file
    ):

        def write(event: Event) -> None:
            line = {
                "time": datetime.now(UTC).isoformat(),
                "flow": flow,
                "run": run,
                **asdict(event),
            }
            file.write(json.dumps(line) + "\n")
            file.flush()

        with listening(_harmless(write)):
            yield


@contextmanager
def _again_and_again(shows: Sequence[Show], seconds: float) -> Iterator[None]:
    """Show every so many seconds, and once more at the end, from a thread of its own."""
    over, harmless = threading.Event(), [_harmless(show) for show in shows]

    def go_on() -> None:
        ended = False
        while not ended:
            ended = over.wait(seconds)
            for show in harmless:
                show()

    thread = threading.Thread(target=copy_context().run, args=(go_on,), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _harmless(action: Callable[P, None]) -> Callable[P, None]:
    """`action`, of which an error is told once and stops nothing: a server that is away, a disk
    that is full.
    """
    told = False

    def tried(*arguments: P.args, **named: P.kwargs) -> None:
        nonlocal told
        try:
            action(*arguments, **named)
        except Exception as error:
            if not told:
                _logger.warning(
                    "the run goes on, but cannot be followed: %s: %s", type(error).__name__, error
                )
            told = True

    return tried


def _measure_store(url: str) -> None:
    if found := free_space(url):
        measured("store", {"store_free_bytes": {"": float(found[0])}})
