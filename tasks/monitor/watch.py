"""Watch: publishes the progress of a run while it runs, from its events alone.

Progress goes to Prefect's UI, to Prometheus and to JSON lines, as `watch` of the settings says. No
error in it can stop a run.
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

from infra.credentials import scrub
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
    """Publish the progress of the calling flow while the block lasts."""
    watch = settings.watch
    totals = RunningTotals()
    context = FlowRunContext.get()
    flow = context.flow.name if context and context.flow else "segmint"
    shows: list[Show] = [lambda: _measure_store(settings.store.url)]
    if context and context.flow_run:
        artifacts = ProgressArtifacts(context.flow_run.id)
        shows.append(lambda: artifacts.show(totals.totals()))
    if watch.metrics:
        figures = Figures(flow, settings.name, totals.totals)
        place = watch.metrics
        shows.append(lambda: send(figures, flow, place))
    with ExitStack() as stack:
        stack.enter_context(located(run=settings.name))
        stack.enter_context(listening(totals))
        if watch.lines:
            stack.enter_context(_lines(watch.lines, flow, settings.name))
        stack.enter_context(_repeated(shows, watch.seconds))
        yield


@contextmanager
def _lines(place: str, flow: str, run: str) -> Iterator[None]:
    """Write each event as a line of JSON to standard error ("-"), or to RUN.jsonl in a folder."""
    with ExitStack() as stack:
        if place == "-":
            file = stack.enter_context(nullcontext(sys.stderr))
        else:
            Path(place).mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((Path(place) / f"{run}.jsonl").open("a"))

        def write(event: Event) -> None:
            about = {"time": datetime.now(UTC).isoformat(), "flow": flow, "run": run}
            file.write(json.dumps(about | asdict(event)) + "\n")
            file.flush()

        stack.enter_context(listening(_harmless(write)))
        yield


@contextmanager
def _repeated(shows: Sequence[Show], seconds: float) -> Iterator[None]:
    """Call `shows` every `seconds` and once at the end, in a thread of their own."""
    over = threading.Event()
    harmless = [_harmless(show) for show in shows]

    def repeat() -> None:
        ended = False
        while not ended:
            ended = over.wait(seconds)
            for show in harmless:
                show()

    thread = threading.Thread(target=copy_context().run, args=(repeat,), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _harmless(action: Callable[P, None]) -> Callable[P, None]:
    """Return `action` without its errors; the first is logged, such as an unreachable server."""
    logged = False

    def tried(*arguments: P.args, **named: P.kwargs) -> None:
        nonlocal logged
        try:
            action(*arguments, **named)
        except Exception as error:
            if not logged:
                _logger.warning(
                    "the run continues, but its progress cannot be published: %s: %s",
                    type(error).__name__,
                    scrub(str(error)),
                )
            logged = True

    return tried


def _measure_store(url: str) -> None:
    if found := free_space(url):
        measured("store", {"store_free_bytes": {"": float(found[0])}})
