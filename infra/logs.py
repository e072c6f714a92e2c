"""Log records that carry the run, stage and shard they were made in.

With PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER=json, Prefect's formatter writes each record as a
line of JSON, with Prefect's ids of runs and tasks, in flows and in Dask workers.

Credentials that this process uses are replaced by *** in messages and tracebacks, whichever library
writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        if self.exc_info and self.exc_info[0]:
            whole = _FORMATTER.formatException(self.exc_info)
            shown = scrub(whole)
            if shown != whole:  # every formatter would write the exception itself
                self.exc_info = None
                self.msg, self.args = f"{self.getMessage()}\n{shown}", ()

    def getMessage(self) -> str:  # noqa: N802  logging's name
        """Return the message without credentials."""
        return scrub(super().getMessage())


def _install() -> None:
    if logging.getLogRecordFactory() is logging.LogRecord:  # another factory stays
        logging.setLogRecordFactory(_Located)
