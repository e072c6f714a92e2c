"""Log records that carry the run, stage and shard they were made in.

With PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER=json, Prefect's formatter writes each record as a
line of JSON, with Prefect's ids of runs and tasks, in flows and in Dask workers.

Credentials that this process uses are replaced by *** in messages and tracebacks, whichever library
writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from infra.credentials import scrub

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


_FORMATTER = logging.Formatter()


class _Located(logging.LogRecord):
    """A record with the fields of its context, and without credentials."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        vars(self).update(_fields.get())
        with suppress(Exception):  # logging reports arguments that do not fit their message
            self._scrub()

    def _scrub(self) -> None:
        # only if there is something to hide, because formatters know what to do with the parts
        message = self.getMessage()
        if (shown := scrub(message)) != message:
            self.msg, self.args = shown, ()
        if self.exc_info and self.exc_info[0]:
            error = _FORMATTER.formatException(self.exc_info)
            if (shown := scrub(error)) != error:
                self.msg, self.args = f"{scrub(message)}\n{shown}", ()
                self.exc_info = None


def _install() -> None:
    if logging.getLogRecordFactory() is logging.LogRecord:  # another factory stays
        logging.setLogRecordFactory(_Located)
