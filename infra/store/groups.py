"""Partial reads of a large table: only the requested groups of rows, in the requested columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from infra.store.errors import StoreError
from infra.store.footer import TAIL_BYTES, Footer, check_whole, footer_size
from infra.store.layout import check
from infra.store.store import Store

__all__ = ["GroupedTable"]

TAIL = 1 << 16  # bytes that the first read from the end takes, at least
# Largest share of a file that the first read takes. A plan's footer is 1/600 of it; a larger one
# is read in a second request.
FOOTER = 1 / 400


class GroupedTable:
    """A table in the store that `infra.store.tables.grouped` made; opening it reads its footer.

    `columns` are the columns it must have, with their kinds, as in `Store.read_table`. Attributes:
    `rows` is the number of rows per group, `names` the columns, `notes` the writer's notes, and
    `digest` the SHA-256 of the footer, which covers every byte of the table. Raises `MissingError`
    if there is none, and `StoreError`, naming what is damaged, for other bytes than were written.
    """

    def __init__(self, store: Store, path: str, columns: Mapping[str, str]) -> None:
        self._store = store
        self._path = path
        self._columns = dict(columns)
        # an empty file is read, since a missing one has no size either: that raises MissingError
        self._size = store.usage(path).size or len(store.read_bytes(path))
        with self._explained():
            end = self._end()
            self._footer = Footer(end, columns)
        self.digest = hashlib.sha256(end).hexdigest()
        self.rows = self._footer.rows
        self.notes = self._footer.notes
        self.names = self._footer.names

    def __len__(self) -> int:
        return sum(self.rows)

    def bounds(self, column: str) -> list[tuple[Any, Any]]:
        """Return the least and the greatest value of a column in each group."""
        with self._explained():
            return self._footer.bounds(column)

    def read(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a group of rows in the named columns, all required ones if none are named.

        Only these columns are fetched, in one go.
        """
        names = list(self._columns if columns is None else columns)
        with self._explained(f", rows group {group}"):
            file = np.zeros(self._size, np.uint8).data  # untouched pages take no memory
            chunks = self._footer.chunks(group, names)
            self._store.place.fill(
                [(self._path, start, file[start:stop]) for start, stop in _joined(chunks)]
            )
            for name, at, size, expected in chunks:
                if check(file[at : at + size]) != expected:
                    raise ValueError(f"column {name!r} has changed: its checksum differs")
            table = self._footer.decode(group, names, file)
            check_whole(table, self._columns.keys() & set(names))
            return table

    def _end(self) -> bytes:
        """Return the end of the file, from the footer on."""
        tail = self._tail(min(max(TAIL, int(FOOTER * self._size)), self._size))
        size = footer_size(tail[-TAIL_BYTES:])
        if size > self._size:
            raise ValueError(f"its footer would take {size} bytes, but the file has {self._size}")
        return (tail if size <= len(tail) else self._tail(size))[-size:]

    def _tail(self, size: int) -> bytes:
        tail = bytearray(size)
        self._store.place.fill([(self._path, self._size - size, memoryview(tail))])
        return bytes(tail)

    @contextmanager
    def _explained(self, where: str = "") -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # damage leads pyarrow to errors of every kind
            path = f"{self._store.url}/{self._path}{where}"
            raise StoreError(
                f"{path} is not Parquet ({error}); delete the file and run again"
            ) from error


def _joined(chunks: Sequence[tuple[str, int, int, bytes]]) -> list[tuple[int, int]]:
    """Return start and end of the ranges that hold the chunks, adjoining chunks in one range.

    A request costs more than its bytes.
    """
    ranges: list[tuple[int, int]] = []
    for _, at, size, _ in sorted(chunks, key=lambda chunk: chunk[1]):
        start = ranges.pop()[0] if ranges and ranges[-1][1] == at else at
        ranges.append((start, at + size))
    return ranges
