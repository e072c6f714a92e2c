"""Tables as Parquet files with a seal; large tables in groups of rows that can be read alone.

A small table (`parquet`) has one seal over the whole file. A large one (`grouped`) has in its
footer the CRC32C of every column of every group, in file order, and a seal over the footer. So a
reader of the footer and of some columns of some groups can check every byte it read. Plain Parquet
readers open both.
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
    "grouped_as",
    "parquet",
    "parse_table",
]

MAGIC = b"PAR1"  # at both ends of a file; before the last one is the footer's length
TAIL_BYTES = 8
_SEAL = b"segmint.seal"  # keys of a table's metadata
_FOOTER_SEAL = b"segmint.footer"
_CHECKS = b"segmint.checks"
_NOTES = b"segmint.notes"
_UNKNOWN = b"-" * 2 * CHECK_BYTES  # placeholder of a checksum
_KINDS = {  # patterns of Arrow's type names; a column without any value has type null
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
    """Return the table as a sealed Parquet file. Equal tables give equal bytes."""
    buffer = io.BytesIO()
    columns = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**columns.schema.metadata, _SEAL: BLANK}
    pq.write_table(columns.replace_schema_metadata(metadata), buffer)
    return stamp(buffer.getvalue())


def grouped(
    groups: Iterable[pd.DataFrame],
    columns: Mapping[str, str],
    bounds: Sequence[str],
    notes: Mapping[str, Any],
) -> memoryview:
    """Return tables of these columns as one Parquet file, one group of rows per table.

    `columns` are names and kinds, as in `parse_table`. The footer holds the least and the greatest
    value of the columns `bounds` in each group, and `notes`. The notes are written after the last
    group, so whoever makes the groups may fill them meanwhile. Beside the file, one group is in
    memory at a time.
    """
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()])
    return grouped_as(groups, schema, bounds, notes)


def grouped_as(
    groups: Iterable[pd.DataFrame],
    schema: pa.Schema,
    bounds: Sequence[str],
    notes: Mapping[str, Any],
) -> memoryview:
    """Return what `grouped` does, for columns of any Arrow types."""
    empty = schema.empty_table().to_pandas()
    schema = pa.Table.from_pandas(empty, schema, preserve_index=False).schema
    buffer = io.BytesIO()
    chunks = 0
    with pq.ParquetWriter(buffer, schema, write_statistics=list(bounds)) as writer:
        for table in groups:
            arrow = pa.Table.from_pandas(table, schema, preserve_index=False)
            writer.write_table(arrow, row_group_size=max(1, len(table)))
            chunks += len(schema)
        metadata = {_NOTES: json.dumps(notes, sort_keys=True), _CHECKS: _UNKNOWN * chunks}
        writer.add_key_value_metadata({**metadata, _FOOTER_SEAL: BLANK})
    data = buffer.getbuffer()
    _seal_groups(data)
    return data


def _seal_groups(data: memoryview) -> None:
    """Fill in the checksums and the footer's seal of a file that was just written."""
    start = len(data) - footer_size(data[-TAIL_BYTES:])
    footer = pq.read_metadata(io.BytesIO(data[start:]))
    checks = b"".join(check(data[at : at + size]).hex().encode() for at, size in _chunks(footer))
    body = bytes(data[start:])
    data[start:] = stamp(body.replace(b"-" * len(checks), checks, 1) if checks else body)


def footer_size(tail: bytes | memoryview) -> int:
    """Return the size of a Parquet file's footer from the file's last `TAIL_BYTES` bytes.

    It includes the footer's length and the last magic. Raises `ValueError` if these are not the
    last bytes of a Parquet file.
    """
    if len(tail) != TAIL_BYTES or bytes(tail[4:]) != MAGIC:
        raise ValueError("it does not end as a Parquet file")
    return TAIL_BYTES + int.from_bytes(tail[:4], "little")


class Footer:
    """The footer of a table that `grouped` made: its groups, where their bytes are, and notes."""

    def __init__(self, data: bytes, columns: Mapping[str, str]) -> None:
        """Parse `data`, the file from the footer to the end.

        Raises `ValueError` if it has changed, lacks one of `columns`, or is the footer of a table
        that is not in groups.
        """
        self.metadata = pq.read_metadata(io.BytesIO(data))
        metadata = self.metadata.metadata or {}
        if _FOOTER_SEAL not in metadata:
            raise ValueError("it is not a table in groups of rows")
        if not stamped(data, metadata[_FOOTER_SEAL]):
            raise ValueError("the seal does not fit the footer")
        _check_kinds(self.metadata, columns)
        self.names = self.metadata.schema.to_arrow_schema().names
        self.notes: dict[str, Any] = parse_json(metadata[_NOTES])
        self._checks = bytes.fromhex(metadata[_CHECKS].decode())

    @property
    def rows(self) -> list[int]:
        """Number of rows of each group."""
        groups = range(self.metadata.num_row_groups)
        return [self.metadata.row_group(group).num_rows for group in groups]

    def bounds(self, column: str) -> list[tuple[Any, Any]]:
        """Return the least and the greatest value of a column in each group."""
        at = self.names.index(column)
        groups = range(self.metadata.num_row_groups)
        found = [self.metadata.row_group(group).column(at).statistics for group in groups]
        if not all(statistics and statistics.has_min_max for statistics in found):
            raise ValueError(f"its footer does not tell the bounds of column {column!r}")
        return [(statistics.min, statistics.max) for statistics in found]

    def chunks(self, group: int, columns: Sequence[str]) -> list[tuple[str, int, int, bytes]]:
        """Return name, offset in the file, size and checksum of these columns of a group."""
        metadata = self.metadata.row_group(group)
        chunks = []
        for name in columns:
            at = self.names.index(name)
            number = CHECK_BYTES * (group * len(self.names) + at)
            checksum = self._checks[number : number + CHECK_BYTES]
            chunks.append((name, *_extent(metadata.column(at)), checksum))
        return chunks

    def decode(self, group: int, columns: Sequence[str], file: memoryview) -> pa.Table:
        """Return these columns of a group.

        `file` is as long as the whole file, but only the bytes of these columns are read.
        """
        source = pq.ParquetFile(pa.BufferReader(pa.py_buffer(file)), metadata=self.metadata)
        return source.read_row_group(group, list(columns), use_threads=False)


def _chunks(metadata: Any) -> list[tuple[int, int]]:
    """Return offset and size of every column of every group, in the order of their checksums."""
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    return [_extent(group.column(at)) for group in groups for at in range(metadata.num_columns)]


def _extent(chunk: Any) -> tuple[int, int]:
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start, chunk.total_compressed_size


def parse_table(data: bytes, columns: Mapping[str, str]) -> pa.Table:
    """Return the table of a whole Parquet file that `parquet` or `grouped` made.

    `columns` are the columns that must exist without gaps, with their kinds: "bool", "int", "str",
    "list[int]" or "list[str]". Raises what pyarrow raises, and `ValueError` for a file without a
    seal or with other bytes than were written.
    """
    metadata = pq.read_metadata(io.BytesIO(data))
    found = metadata.metadata or {}
    if _FOOTER_SEAL in found:
        _check_groups(data, metadata)
    elif _SEAL not in found:
        raise ValueError("it has no seal, so segmint did not write it")
    elif not stamped(data, found[_SEAL]):
        raise ValueError("the seal does not fit the content")
    if metadata.num_rows > len(data):  # every table names its rows, so each takes bytes
        raise ValueError(f"it declares {metadata.num_rows} rows in {len(data)} bytes")
    _check_kinds(metadata, columns)
    table = pq.read_table(io.BytesIO(data))
    check_whole(table, columns)
    return table


def _check_groups(data: bytes, metadata: Any) -> None:
    size = footer_size(data[-TAIL_BYTES:])
    footer = Footer(data[-size:], {})
    view = memoryview(data)
    end = len(MAGIC)
    for group in range(metadata.num_row_groups):
        for name, start, length, expected in footer.chunks(group, footer.names):
            if start != end or check(view[start : start + length]) != expected:
                raise ValueError(
                    f"column {name!r} of rows group {group} has changed: its checksum differs"
                )
            end = start + length
    if data[: len(MAGIC)] != MAGIC or end != len(data) - size:
        raise ValueError("it holds bytes outside its groups of rows")


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
    """Raise `ValueError` if one of these columns has a gap (null)."""
    for name in columns:
        if table[name].null_count:
            raise ValueError(f"column {name!r} has gaps")


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return the table as pandas, with Python lists in columns of lists."""
    frame = table.to_pandas()
    for name in [name for name in frame.columns if pd.api.types.is_object_dtype(frame[name])]:
        frame[name] = [
            value.tolist() if isinstance(value, np.ndarray) else value for value in frame[name]
        ]
    return frame
