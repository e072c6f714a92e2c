"""Log records that carry the run, stage and shard they were made in.

With PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER=json, Prefect's formatter writes each record as a
line of JSON, with Prefect's ids of runs and tasks, in flows and in Dask workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

__all__ = ["located"]

_fields: ContextVar[Mapping[str, str]] = ContextVar("fields", default=MappingProxyType({}))


@contextmanager
def located(**fields: str) -> Iterator[None]:
    """Add `fields`, such as `run`, `stage` and `shard`, to every log record of this context."""
    _install()
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


class _Located(logging.LogRecord):
    """A record with the fields of its context."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        vars(self).update(_fields.get())


def _install() -> None:
    if logging.getLogRecordFactory() is logging.LogRecord:  # another factory stays
        logging.setLogRecordFactory(_Located)
