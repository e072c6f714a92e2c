"""The footer of a Parquet file with groups of rows: their checksums, bounds and notes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.parsing import parse_json
from infra.store.layout import CHECK_BYTES
from infra.store.seal import stamped

__all__ = [
    "CHECKS",
    "FOOTER_SEAL",
    "MAGIC",
    "NOTES",
    "TAIL_BYTES",
    "Footer",
    "check_kinds",
    "check_whole",
    "chunk_extents",
    "footer_size",
]

MAGIC = b"PAR1"  # at both ends of a file; before the last one is the footer's length
TAIL_BYTES = 8
FOOTER_SEAL = b"segmint.footer"  # keys of a table's metadata
CHECKS = b"segmint.checks"
NOTES = b"segmint.notes"
_KINDS = {  # patterns of Arrow's type names; a column without any value has type null
    "bool": "bool|null",
    "int": r"u?int\d+|null",
    "str": "(large_)?string|null",
    "list[int]": r"null|(large_)?list<.*: (u?int\d+|null)>",
    "list[str]": "null|(large_)?list<.*: ((large_)?string|null)>",
}


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
        if FOOTER_SEAL not in metadata:
            raise ValueError("it is not a table in groups of rows")
        if not stamped(data, metadata[FOOTER_SEAL]):
            raise ValueError("the seal does not fit the footer")
        check_kinds(self.metadata, columns)
        self.names = self.metadata.schema.to_arrow_schema().names
        self.notes: dict[str, Any] = parse_json(metadata[NOTES])
        self._checks = bytes.fromhex(metadata[CHECKS].decode())

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


def chunk_extents(metadata: Any) -> list[tuple[int, int]]:
    """Return offset and size of every column of every group, in the order of their checksums."""
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    return [_extent(group.column(at)) for group in groups for at in range(metadata.num_columns)]


def _extent(chunk: Any) -> tuple[int, int]:
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start, chunk.total_compressed_size


def check_kinds(metadata: Any, columns: Mapping[str, str]) -> None:
    """Raise `ValueError` if a column is missing or is not of its kind."""
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
