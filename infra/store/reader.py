"""Reading shards: one sample at a time at random, or whole.

Every sample's checksum is tested as it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.store.errors import CorruptShardError, MissingError
from infra.store.layout import CHECK_BYTES, Layout, check, decompress, parse_index
from infra.store.marker import check_marker
from infra.store.store import Store

__all__ = ["ShardReader", "read_samples", "read_shard"]

BLOCK = (
    8 << 20
    # bytes decoded at once: 16 to 25 % faster than 1 MiB on a disk, and a round trip's time does not
    # count
)
_Array = NDArray[Any]
_Piece = tuple[str, int, memoryview]
_REMEDY = "run `segmint verify` to see all that is damaged, delete the shard's marker and run the stage again"


class ShardReader:
    """Random access to the samples of a finished shard: one range read and one decoding a sample
    and field.

    Opening reads the marker and the index of every field, once. Raises `MissingError` if the shard
    was never finished and `CorruptShardError`, naming field and sample, for bytes that are not the
    ones written.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.marker = marker = check_marker(store, path)
        self.store, self.path = store, path
        self._checks = {name: bytes.fromhex(checks) for name, checks in marker.checks.items()}
        self._kept: dict[str, memoryview] = {}
        self._chunks = self._indices()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(self.marker.fields)

    @property
    def ids(self) -> tuple[str, ...]:
        """Sample ids, in order."""
        return self.marker.ids

    def __len__(self) -> int:
        return len(self.marker.ids)

    def read(self, field: str, index: int) -> _Array:
        """Return sample `index` of a field."""
        return self.sample(index, [field])[field]

    def sample(self, index: int, fields: Sequence[str] | None = None) -> dict[str, _Array]:
        """Return several fields of sample `index`, all if none are named, fetched at once."""
        return read_samples([(self, index)], fields)[0]

    def load(self, start: int, stop: int, outs: Mapping[str, _Array]) -> None:
        """Fill `outs`, field → contiguous array of `stop - start` samples, each field read in one
        piece.
        """
        buffers = self._buffers(start, stop, outs)
        _fetch(self.store, self._missing(start, buffers))
        self._decode_all(start, buffers, outs)

    def keep(self, fields: Sequence[str]) -> None:
        """Fetch all of these fields in large pieces; from now on their samples come from memory.

        They are kept as they are stored. From a bucket, a request for a sample takes many times
        what its bytes take.
        """
        for name in self._chunks.keys() & set(fields):
            path, whole = (
                self.path + self.marker.suffix(name),
                memoryview(bytearray(self.stored_bytes([name]))),
            )
            _fetch(
                self.store,
                [(path, at, whole[at : at + BLOCK]) for at in range(0, len(whole), BLOCK)],
            )
            self._kept[name] = whole

    def stored_bytes(self, fields: Sequence[str]) -> int:
        """Size of these fields' shard objects."""
        return sum(
            self.marker.files[self.marker.suffix(name)].size
            for name in self._chunks.keys() & set(fields)
        )

    def layouts(self, fields: Sequence[str] | None = None) -> dict[str, Layout]:
        """Return shape, dtype and codec of the named fields, all if none are named."""
        unknown = set(fields or ()) - set(self.fields)
        if unknown:
            raise MissingError(
                f"{self.path} has no field {sorted(unknown)}, only {', '.join(self.fields)}"
            )
        return {
            name: self.marker.fields[name] for name in (self.fields if fields is None else fields)
        }

    def pieces(self, field: str) -> Iterator[tuple[int, int]]:
        """Yield `start, stop` over all samples in pieces of about `BLOCK` bytes."""
        if field in self._chunks:
            step = max(1, BLOCK // self.marker.fields[field].sample_bytes)
            yield from (
                (start, min(start + step, len(self))) for start in range(0, len(self), step)
            )

    def _indices(self) -> dict[str, NDArray[np.int64]]:
        """Read the index of every field that has a shard object."""
        layouts = {
            name: layout for name, layout in self.marker.fields.items() if not layout.is_empty
        }
        buffers = {name: bytearray(layout.index_bytes) for name, layout in layouts.items()}
        sizes = {name: self.marker.files[self.marker.suffix(name)].size for name in layouts}
        wanted = {name: self.path + self.marker.suffix(name) for name in layouts}
        _fetch(
            self.store,
            [
                (wanted[name], sizes[name] - len(end), memoryview(end))
                for name, end in buffers.items()
            ],
        )
        try:
            return {
                name: parse_index(buffers[name], layout, sizes[name])
                for name, layout in layouts.items()
            }
        except ValueError as error:
            raise CorruptShardError(f"{self.store.url}/{self.path}: {error}; {_REMEDY}") from error

    def _buffers(self, start: int, stop: int, outs: Mapping[str, _Array]) -> dict[str, memoryview]:
        """Return where the stored bytes of `stop - start` samples go, for each field that has any."""
        return {
            name: self._buffer(name, start, stop, out)
            for name, out in outs.items()
            if name in self._chunks
        }

    def _missing(self, start: int, buffers: Mapping[str, memoryview]) -> Iterator[_Piece]:
        """Yield what must be fetched to fill `buffers` from sample `start` on; what is kept is
        filled in at once.
        """
        for name, buffer in buffers.items():
            at = int(self._chunks[name][start, 0])
            if name in self._kept:
                buffer[:] = self._kept[name][at : at + len(buffer)]
            else:
                yield self.path + self.marker.suffix(name), at, buffer

    def _decode_all(
        self, start: int, buffers: Mapping[str, memoryview], outs: Mapping[str, _Array]
    ) -> None:
        """Turn the filled `buffers` into `outs`."""
        for name, buffer in buffers.items():
            self._decode(name, start, buffer, outs[name])

    def _buffer(self, field: str, start: int, stop: int, out: _Array) -> memoryview:
        """Return where the stored bytes go: straight into `out` unless they are compressed."""
        if self.marker.fields[field].codec == "raw":
            return out.reshape(-1).view(np.uint8).data
        return memoryview(bytearray(int(self._chunks[field][start:stop, 1].sum())))

    def _decode(self, field: str, start: int, buffer: memoryview, out: _Array) -> None:
        """Test the checksum of each sample and decompress what is compressed."""
        checks = self._checks[field]
        begin = 0
        for row, length in enumerate(self._chunks[field][start : start + len(out), 1].tolist()):
            chunk = buffer[begin : begin + length]
            begin += length
            at = CHECK_BYTES * (start + row)
            if check(chunk) != checks[at : at + CHECK_BYTES]:
                raise CorruptShardError(
                    f"{self._name(field, start + row)}: its checksum differs; {_REMEDY}"
                )
        if self.marker.fields[field].codec == "zstd":
            try:
                decompress(buffer, out)
            except ValueError as error:
                raise CorruptShardError(
                    f"{self._name(field, start)} and those after it: {error}; {_REMEDY}"
                ) from error

    def _name(self, field: str, index: int) -> str:
        return f"{self.store.url}/{self.path}: sample {index} ({self.ids[index]}), field {field!r}"


def read_samples(
    chosen: Sequence[tuple[ShardReader, int]], fields: Sequence[str] | None = None
) -> list[dict[str, _Array]]:
    """Return several fields (all if none are named) of samples of any shards of a store, all
    fetched at once.

    Raises `IndexError` for a sample that a shard does not have, else as `ShardReader` does.
    """
    loads, pieces = [], list[_Piece]()
    for reader, index in chosen:
        if not 0 <= index < len(reader):
            raise IndexError(f"sample {index} of {len(reader)} in {reader.path}")
        layouts = reader.layouts(fields).items()
        outs = {name: np.empty((1, *layout.shape[1:]), layout.dtype) for name, layout in layouts}
        buffers = reader._buffers(index, index + 1, outs)
        pieces += reader._missing(index, buffers)
        loads.append((reader, index, buffers, outs))
    if pieces:
        _fetch(chosen[0][0].store, pieces)
    for reader, index, buffers, outs in loads:
        reader._decode_all(index, buffers, outs)
    return [{name: out[0, ...] for name, out in outs.items()} for *_, outs in loads]


def _fetch(store: Store, pieces: Iterable[_Piece]) -> None:
    try:
        store.place.fill(list(pieces))
    except MissingError as error:
        raise CorruptShardError(f"{error}, although the shard was finished; {_REMEDY}") from error


def read_shard(
    store: Store, path: str, fields: Sequence[str] | None = None
) -> tuple[dict[str, _Array], pd.DataFrame]:
    """Return a finished shard: field → array (n, ...), only those in `fields` if given, and its
    table.

    Raises as `ShardReader` does.
    """
    reader = ShardReader(store, path)
    arrays = {
        name: np.empty(layout.shape, layout.dtype)
        for name, layout in reader.layouts(fields).items()
    }
    with ThreadPoolExecutor(store.place.readers) as pool:
        jobs = [
            pool.submit(reader.load, start, stop, {name: array[start:stop]})
            for name, array in arrays.items()
            for start, stop in reader.pieces(name)
        ]
        table = store.read_table(f"{path}.parquet")
        for job in jobs:
            job.result()
    return arrays, table
