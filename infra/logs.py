"""Logs that say where: every record of a process carries the run, stage and shard that it was made
in.

Prefect's JSON formatter writes them, with Prefect's own ids of runs and tasks, if it is told to by
PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER=json; then each record is a line of JSON, in flows and in
Dask's workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

__all__ = ["located"]

_place: ContextVar[Mapping[str, str]] = ContextVar("place", default=MappingProxyType({}))


@contextmanager
def located(**fields: str) -> Iterator[None]:
    """Let every log record of this context carry `fields`, such as `run`, `stage` and `shard`."""
    _install()
    token = _place.set({**_place.get(), **fields})
    try:
        yield
    finally:
        _place.reset(token)


class _Located(logging.LogRecord):
    """A record with the place where it was made."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        vars(self).update(_place.get())


def _install() -> None:
    if (
        logging.getLogRecordFactory() is logging.LogRecord
    ):  # whoever has put another one there keeps it
        logging.setLogRecordFactory(_Located)
