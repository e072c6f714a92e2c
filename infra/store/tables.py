"""Tables as Parquet files with a seal; large tables in groups of rows that can be read alone.

A small table (`parquet`) has one seal over the whole file. A large one (`grouped`) has in its
footer the CRC32C of every column of every group, in file order, and a seal over the footer. So a
reader of the footer and of some columns of some groups can check every byte it read. Plain Parquet
readers open both.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from infra.store.footer import (
    CHECKS,
    FOOTER_SEAL,
    MAGIC,
    NOTES,
    TAIL_BYTES,
    Footer,
    check_kinds,
    check_whole,
    chunk_extents,
    footer_size,
)
from infra.store.layout import CHECK_BYTES, check
from infra.store.seal import BLANK, stamp, stamped

__all__ = [
    "as_frame",
    "grouped",
    "grouped_as",
    "parquet",
    "parse_table",
]

_SEAL = b"segmint.seal"  # key of a small table's metadata
_UNKNOWN = b"-" * 2 * CHECK_BYTES  # placeholder of a checksum
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
    group, so the generator of the groups may fill them meanwhile. Beside the file, one group is in
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
        metadata = {NOTES: json.dumps(notes, sort_keys=True), CHECKS: _UNKNOWN * chunks}
        writer.add_key_value_metadata({**metadata, FOOTER_SEAL: BLANK})
    data = buffer.getbuffer()
    _seal_groups(data)
    return data


def _seal_groups(data: memoryview) -> None:
    """Fill in the checksums and the footer's seal of a file that was just written."""
    start = len(data) - footer_size(data[-TAIL_BYTES:])
    footer = pq.read_metadata(io.BytesIO(data[start:]))
    checks = b"".join(
        check(data[at : at + size]).hex().encode() for at, size in chunk_extents(footer)
    )
    body = bytes(data[start:])
    data[start:] = stamp(body.replace(b"-" * len(checks), checks, 1) if checks else body)


def parse_table(data: bytes, columns: Mapping[str, str]) -> pa.Table:
    """Return the table of a whole Parquet file that `parquet` or `grouped` made.

    `columns` are the columns that must exist without gaps, with their kinds: "bool", "int", "str",
    "list[int]" or "list[str]". Raises what pyarrow raises, and `ValueError` for a file without a
    seal or with other bytes than were written.
    """
    metadata = pq.read_metadata(io.BytesIO(data))
    found = metadata.metadata or {}
    if FOOTER_SEAL in found:
        _check_groups(data, metadata)
    elif _SEAL not in found:
        raise ValueError("it has no seal, so segmint did not write it")
    elif not stamped(data, found[_SEAL]):
        raise ValueError("the seal does not fit the content")
    if metadata.num_rows > len(data):  # every table names its rows, so each takes bytes
        raise ValueError(f"it declares {metadata.num_rows} rows in {len(data)} bytes")
    check_kinds(metadata, columns)
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


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return the table as pandas, with Python lists in columns of lists."""
    frame = table.to_pandas()
    for name in [name for name in frame.columns if pd.api.types.is_object_dtype(frame[name])]:
        frame[name] = [
            value.tolist() if isinstance(value, np.ndarray) else value for value in frame[name]
        ]
    return frame
