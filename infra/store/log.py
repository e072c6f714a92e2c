"""A log of numbered entries: independent processes change one value, and no change is lost.

<log>/<number>/        the writers' agreement on the entry (`infra.store.agreement`)
<log>/<number>.json    the entry, never changed

A process reads the last entry, decides, and appends the next number. If another process was first,
the number is taken, and it reads and decides again. So each entry is decided on with knowledge of
all before it (compare-and-set), on folders and on S3, without locks and conditional writes.
"""

from __future__ import annotations

import re
from typing import Any

from infra.store.agreement import agree
from infra.store.store import Store, as_json

__all__ = ["append_entry", "read_last"]

_ENTRY = re.compile(r"(\d{8})\.json")


def read_last(store: Store, log: str, shape: Any = Any) -> tuple[int, Any]:
    """Return number and value of a log's last entry; 0 and None if the log is empty.

    Raises `StoreError` for an entry that is no JSON or does not fit `shape`.
    """
    numbers = [int(found[1]) for found in map(_ENTRY.fullmatch, store.list(log)) if found]
    if not numbers:
        return 0, None
    return max(numbers), store.read_json(_path(log, max(numbers)), shape)


def append_entry(store: Store, log: str, number: int, value: Any) -> bool:
    """Append `value` as entry `number`, one more than the last; return whether it is that entry.

    It is not if another process was first. A writer that was killed between agreement and entry
    leaves the entry to the next one.
    """
    path = _path(log, number)
    data = as_json(path, value)
    if not store.exists(path):
        won = agree(store, path.removesuffix(".json"), data)
        store.write_bytes(path, won)
    return store.read_bytes(path) == data


def _path(log: str, number: int) -> str:
    return f"{log}/{number:08d}.json"
