"""Reading a large table in part: the groups of rows that are asked for, in the columns that are
asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from infra.store.errors import StoreError
from infra.store.layout import check
from infra.store.store import Store
from infra.store.tables import TAIL_BYTES, Footer, check_whole, footer_size, is_grouped, parse_table

__all__ = ["GroupedTable"]

TAIL = 1 << 16  # bytes read at once from the end, at least
FOOTER = (
    1 / 400
    # of a large table are in its footer, at most, or it is read twice; a plan's takes a six-hundredth
)


class GroupedTable:
    """A table in the store, opened by its footer; `columns` are its columns and their kinds, as in
    `Store.read_table`.

    One that was written in one piece is read whole when it is opened, and is one group without
    `notes`. Raises `MissingError` if there is none, `StoreError`, naming what is damaged, for other
    bytes than were written.
    """

    def __init__(self, store: Store, path: str, columns: Mapping[str, str]) -> None:
        self._store, self._path, self._columns = store, path, dict(columns)
        self._size = store.usage(path).size or len(
            store.read_bytes(path)
        )  # the latter raises if there is none
        self._footer: Footer | None = None
        with self._explained():
            end = self._end()
            self.digest = hashlib.sha256(
                end
            ).hexdigest()  # stands for every byte: the seal is in the footer
            if is_grouped(end):
                self._footer = Footer(end, columns)
                self.rows, self.notes, self.names = (
                    self._footer.rows,
                    self._footer.notes,
                    self._footer.names,
                )
            else:
                self._whole = parse_table(store.read_bytes(path), columns)
                self.rows, self.notes, self.names = (
                    [self._whole.num_rows],
                    {},
                    self._whole.column_names,
                )

    def __len__(self) -> int:
        return sum(self.rows)

    def bounds(self, column: str) -> list[tuple[Any, Any]] | None:
        """Least and greatest value of a column in each group; None for a table in one piece."""
        with self._explained():
            return self._footer.bounds(column) if self._footer else None

    def read(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a group of rows, of the named columns if any are named; only these are fetched,
        all at once.
        """
        names = list(self._columns if columns is None else columns)
        if self._footer is None:
            return self._whole.select(names)
        with self._explained(f", rows group {group}"):
            file = np.zeros(self._size, np.uint8).data  # what nobody touches takes no memory
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
        """The footer and what follows it to the end of the file."""
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
    """Start and end of what the chunks take, neighbours in one piece: a request costs more than its
    bytes.
    """
    pieces: list[tuple[int, int]] = []
    for _, at, size, _ in sorted(chunks, key=lambda chunk: chunk[1]):
        start = pieces.pop()[0] if pieces and pieces[-1][1] == at else at
        pieces.append((start, at + size))
    return pieces
