"""Tables as Parquet files that carry their own seal; large ones in groups of rows that can be read
alone.

A small table has one seal over the whole file. A large one (`grouped`) has in its footer the CRC32C
of every column of every group, in the order of the file, and a seal over the footer: so whoever
reads the footer and some columns of some groups knows that each byte of these is as it was written.
Plain Parquet readers open both.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from infra.parsing import parse_json
from infra.store.layout import CHECK_BYTES, check
from infra.store.seal import BLANK, stamp, stamped

__all__ = [
    "TAIL_BYTES",
    "Footer",
    "as_frame",
    "check_whole",
    "footer_size",
    "grouped",
    "is_grouped",
    "parquet",
    "parse_table",
]

MAGIC = b"PAR1"  # at both ends of a file; before the last one stands the footer's length
TAIL_BYTES = 8
_SEAL, _FOOTER_SEAL = b"segmint.seal", b"segmint.footer"  # keys in a table's metadata
_CHECKS, _NOTES = b"segmint.checks", b"segmint.notes"
_UNKNOWN = b"-" * 2 * CHECK_BYTES  # stands for a checksum until it is known
_KINDS = {  # names of Arrow's types; null is what a column without any value has
    "bool": "bool|null",
    "int": r"u?int\d+|null",
    "str": "(large_)?string|null",
    "list[int]": r"null|(large_)?list<.*: (u?int\d+|null)>",
    "list[str]": "null|(large_)?list<.*: ((large_)?string|null)>",
}
_TYPES = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "str": pa.string(),
    "list[int]": pa.list_(pa.int64()),
    "list[str]": pa.list_(pa.string()),
}


def parquet(table: pd.DataFrame) -> bytes:
    """Return the table as a Parquet file with its seal; equal tables give equal bytes."""
    buffer, columns = io.BytesIO(), pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(
        columns.replace_schema_metadata({**columns.schema.metadata, _SEAL: BLANK}), buffer
    )
    return stamp(buffer.getvalue())


def grouped(
    groups: Iterable[pd.DataFrame],
    columns: Mapping[str, str],
    bounds: Sequence[str],
    notes: Mapping[str, Any],
) -> memoryview:
    """Return tables of these columns, kinds as in `parse_table`, as one Parquet file of so many
    groups of rows.

    The footer tells the least and the greatest value of the columns `bounds` in each group, and
    holds `notes`, which are taken when all groups are: so whoever makes the groups may count
    meanwhile. One group is in memory at a time, beside the file.
    """
    schema, chunks = pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()]), 0
    schema = pa.Table.from_pandas(
        schema.empty_table().to_pandas(), schema, preserve_index=False
    ).schema
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, write_statistics=list(bounds)) as writer:
        for table in groups:
            arrow = pa.Table.from_pandas(table, schema, preserve_index=False)
            writer.write_table(arrow, row_group_size=max(1, len(table)))
            chunks += len(columns)
        told = {_NOTES: json.dumps(notes, sort_keys=True), _CHECKS: _UNKNOWN * chunks}
        writer.add_key_value_metadata({**told, _FOOTER_SEAL: BLANK})
    data = buffer.getbuffer()
    _seal_groups(data)
    return data


def _seal_groups(data: memoryview) -> None:
    """Put the checksums and the footer's seal where they belong, in a file that was just written."""
    start = len(data) - footer_size(data[-TAIL_BYTES:])
    footer = pq.read_metadata(io.BytesIO(data[start:]))
    checks = b"".join(check(data[at : at + size]).hex().encode() for at, size in _chunks(footer))
    body = (
        bytes(data[start:]).replace(b"-" * len(checks), checks, 1)
        if checks
        else bytes(data[start:])
    )
    data[start:] = stamp(body)


def footer_size(tail: bytes | memoryview) -> int:
    """Size of a Parquet file's footer, its length and the last magic included, from the last
    `TAIL_BYTES` bytes.

    ValueError if these are not a Parquet file's.
    """
    if len(tail) != TAIL_BYTES or bytes(tail[4:]) != MAGIC:
        raise ValueError("it does not end as a Parquet file")
    return TAIL_BYTES + int.from_bytes(tail[:4], "little")


def is_grouped(footer: bytes) -> bool:
    """Whether the end of a Parquet file is that of a table that `grouped` made.

    Raises whatever pyarrow raises.
    """
    return _FOOTER_SEAL in (pq.read_metadata(io.BytesIO(footer)).metadata or {})


class Footer:
    """The footer of a table that `grouped` made: which groups of rows there are, where they lie,
    and what they hold.
    """

    def __init__(self, data: bytes, columns: Mapping[str, str]) -> None:
        """`data` is the footer to the end of the file;

        ValueError if it is not what was written, or lacks a column.
        """
        self.metadata = pq.read_metadata(io.BytesIO(data))
        told = self.metadata.metadata or {}
        if not stamped(data, told.get(_FOOTER_SEAL, b"")):
            raise ValueError("the seal does not fit the footer")
        _check_kinds(self.metadata, columns)
        self.names = self.metadata.schema.to_arrow_schema().names
        self.notes: dict[str, Any] = parse_json(told[_NOTES])
        self._checks = bytes.fromhex(told[_CHECKS].decode())

    @property
    def rows(self) -> list[int]:
        """Number of rows of each group."""
        return [
            self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)
        ]

    def bounds(self, column: str) -> list[tuple[Any, Any]]:
        """Least and greatest value of a column in each group."""
        at = self.names.index(column)
        found = [
            self.metadata.row_group(group).column(at).statistics
            for group in range(self.metadata.num_row_groups)
        ]
        if not all(of_group and of_group.has_min_max for of_group in found):
            raise ValueError(f"its footer does not tell the bounds of column {column!r}")
        return [(of_group.min, of_group.max) for of_group in found]

    def chunks(self, group: int, columns: Sequence[str]) -> list[tuple[str, int, int, bytes]]:
        """Name, place in the file, size and checksum of these columns of a group."""
        of_group, chosen = (
            self.metadata.row_group(group),
            [self.names.index(name) for name in columns],
        )
        numbers = [CHECK_BYTES * (group * len(self.names) + at) for at in chosen]
        return [
            (
                self.names[at],
                *_extent(of_group.column(at)),
                self._checks[number : number + CHECK_BYTES],
            )
            for at, number in zip(chosen, numbers, strict=True)
        ]

    def decode(self, group: int, columns: Sequence[str], file: memoryview) -> pa.Table:
        """Return these columns of a group from `file`, as long as the whole, of which only their
        places are read.
        """
        source = pq.ParquetFile(pa.BufferReader(pa.py_buffer(file)), metadata=self.metadata)
        return source.read_row_group(group, list(columns), use_threads=False)


def _chunks(metadata: Any) -> list[tuple[int, int]]:
    """Place and size of every column of every group, in the order of their checksums."""
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    return [_extent(group.column(at)) for group in groups for at in range(metadata.num_columns)]


def _extent(chunk: Any) -> tuple[int, int]:
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start, chunk.total_compressed_size


def parse_table(data: bytes, columns: Mapping[str, str]) -> pa.Table:
    """Return the table of a whole Parquet file, of either kind.

    `columns` are those that have to be there and whole, with their kinds: "bool", "int", "str",
    "list[int]" or "list[str]". Raises whatever pyarrow raises, and ValueError for other bytes than
    were written.
    """
    metadata = pq.read_metadata(io.BytesIO(data))
    told = metadata.metadata or {}
    if _FOOTER_SEAL in told:
        _check_groups(data, metadata)
    elif _SEAL in told and not stamped(data, told[_SEAL]):
        raise ValueError("the seal does not fit the content")
    if metadata.num_rows > len(data):  # every table names its rows, so each takes bytes
        raise ValueError(f"it declares {metadata.num_rows} rows in {len(data)} bytes")
    _check_kinds(metadata, columns)
    table = pq.read_table(io.BytesIO(data))
    check_whole(table, columns)
    return table


def _check_groups(data: bytes, metadata: Any) -> None:
    footer = Footer(data[-footer_size(data[-TAIL_BYTES:]) :], {})
    view, end = memoryview(data), len(MAGIC)
    for group in range(metadata.num_row_groups):
        for name, start, size, expected in footer.chunks(group, footer.names):
            if start != end or check(view[start : start + size]) != expected:
                raise ValueError(
                    f"column {name!r} of rows group {group} has changed: its checksum differs"
                )
            end = start + size
    if data[: len(MAGIC)] != MAGIC or end != len(data) - footer_size(data[-TAIL_BYTES:]):
        raise ValueError("there is more in it than its groups of rows")


def _check_kinds(metadata: Any, columns: Mapping[str, str]) -> None:
    schema = metadata.schema.to_arrow_schema()
    for name, kind in columns.items():
        if name not in schema.names:
            raise ValueError(
                f"it has no column {name!r}, only {', '.join(map(repr, schema.names))}"
            )
        if metadata.num_rows and not re.fullmatch(_KINDS[kind], str(schema.field(name).type)):
            raise ValueError(f"column {name!r} holds {schema.field(name).type}, not {kind}")


def check_whole(table: pa.Table, columns: Iterable[str]) -> None:
    """Raise ValueError for a gap in one of these columns."""
    for name in columns:
        if table[name].null_count:
            raise ValueError(f"column {name!r} has gaps")


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return the table with lists in the columns of lists."""
    frame = table.to_pandas()
    for name in [name for name in frame.columns if pd.api.types.is_object_dtype(frame[name])]:
        frame[name] = [
            value.tolist() if isinstance(value, np.ndarray) else value for value in frame[name]
        ]
    return frame
