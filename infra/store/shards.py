"""Shards: the arrays and columns of one task's samples, written by one writer, with the marker
last.

<path>.zarr/     Zarr v3 group, one array a field, chunk = sample
<path>.parquet   columns of the same samples
<path>.json      marker; a shard without a valid one was never written
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from infra.parsing import checked
from infra.store.errors import MissingError, PublishedError, StoreError
from infra.store.layout import CHECK_BYTES, DTYPES, GROUP, Encoded, Layout, encode
from infra.store.seal import FileSum, seal, unseal
from infra.store.store import Store
from infra.store.tables import parquet

__all__ = ["Marker", "check_marker", "read_marker", "write_shard"]

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_Payload = Callable[[], bytes | Encoded]
_Put = Callable[[str, list[bytes | memoryview]], None]


@dataclass(frozen=True)
class Marker:
    """What a finished shard holds: sample ids in order, fields, checksums, statistics, seconds
    taken.

    Keys of `files` are suffixes to the shard's path, such as `.zarr/label/zarr.json`. `checks`
    holds for each field the CRC32C of every stored sample, 8 hexadecimal digits each, so that a
    single read is tested and damage is named.
    """

    ids: tuple[str, ...]
    fields: Mapping[str, Layout]
    files: Mapping[str, FileSum]
    checks: Mapping[str, str]
    stats: Mapping[str, Any]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def digest(self) -> str:
        """SHA-256 of the files' sums; stands for every byte of the shard, whatever is told of how
        it was made.
        """
        return FileSum.of(seal({suffix: vars(file) for suffix, file in self.files.items()})).sha256

    def to_bytes(self) -> bytes:
        """Return the marker as it is stored."""
        fields = {name: vars(layout) for name, layout in self.fields.items()}
        files = {suffix: vars(file) for suffix, file in self.files.items()}
        return seal({**vars(self), "fields": fields, "files": files})

    @classmethod
    def from_bytes(cls, data: bytes) -> Marker:
        """Return the marker that was stored; ValueError if it is not one."""
        marker: Marker = checked(unseal(data), cls)
        marker._check()
        return marker

    def suffix(self, field: str) -> str:
        """Return the key in `files` of the field's shard object; an empty field has none."""
        return f".zarr/{field}/{self.fields[field].key}"

    def _check(self) -> None:
        """Raise ValueError for what no writer writes; whoever reads on may trust names and sizes."""
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("an id stands twice in it")
        if strange := [name for name in self.fields if not _FIELD.fullmatch(name)]:
            raise ValueError(f"field {strange[0]!r} is no plain word")
        stored = {
            self.suffix(name): name for name, layout in self.fields.items() if not layout.is_empty
        }
        loose = {
            ".parquet",
            ".zarr/zarr.json",
            *(f".zarr/{name}/zarr.json" for name in self.fields),
        }
        if set(self.files) != {*stored, *loose} or set(self.checks) != set(stored.values()):
            raise ValueError(
                f"its files are {sorted(self.files)}, its fields {sorted(self.fields)}: that does not fit"
            )
        for name, layout in self.fields.items():
            if layout.shape[0] != len(self.ids):
                raise ValueError(
                    f"field {name!r} has {layout.shape[0]} samples, but there are {len(self.ids)} ids"
                )
        for suffix, name in stored.items():
            self.fields[name].check_size(self.files[suffix].size)
            if not re.fullmatch(
                f"[0-9a-f]{{{2 * CHECK_BYTES * len(self.ids)}}}", self.checks[name]
            ):
                raise ValueError(
                    f"checks of field {name!r} are not {2 * CHECK_BYTES} hexadecimal digits a sample"
                )


def read_marker(store: Store, path: str) -> Marker | None:
    """Return the marker of the shard at `path` (no suffix);

    None if it was never finished, or is not valid.
    """
    try:
        return check_marker(store, path)
    except MissingError:
        return None


def check_marker(store: Store, path: str) -> Marker:
    """Return the marker of the shard at `path`;

    `MissingError` with the reason if there is none that is valid.
    """
    try:
        return Marker.from_bytes(store.read_bytes(f"{path}.json"))
    except (MissingError, ValueError) as error:
        why = "" if isinstance(error, MissingError) else f" (delete its marker first: {error})"
        raise MissingError(
            f"{store.url}/{path} is no finished shard; run the stage that writes it{why}"
        ) from error


def write_shard(
    store: Store,
    path: str,
    arrays: Mapping[str, NDArray[Any]],
    table: pd.DataFrame,
    stats: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
) -> Marker:
    """Write one shard, its marker last, and return the marker.

    `arrays` maps fields to arrays of shape (n, ...), n = the rows of `table`, whose column `id`
    names the samples. The same content gives the same bytes, and a shard that holds it already is
    left alone. Raises `StoreError` for content that breaks these rules and for other content in a
    published version.
    """
    _check(path, arrays, table)
    layouts = {name: Layout.of(array) for name, array in sorted(arrays.items())}
    payloads = _payloads(arrays, layouts, table)
    marker = Marker(tuple(table["id"].tolist()), layouts, {}, {}, dict(stats or {}), seconds)
    finished = _finished(store, path, marker, payloads)
    if finished:
        return finished
    marker = _save(
        payloads,
        marker,
        lambda suffix, parts: store.place.put(path + suffix, parts),
        store.place.writers,
    )
    store.place.put(f"{path}.json", [marker.to_bytes()])
    return marker


def _check(path: str, arrays: Mapping[str, NDArray[Any]], table: pd.DataFrame) -> None:
    if "id" not in table.columns:
        raise StoreError(
            f"{path}: the table has no column 'id', only {list(table.columns)}; add the samples' ids"
        )
    ids = table["id"].tolist()
    if len(set(ids)) < len(ids) or not all(isinstance(name, str) for name in ids):
        twice = [name for name, times in Counter(ids).items() if times > 1]
        raise StoreError(f"{path}: ids must be unique strings; given twice: {twice[:5]}")
    for name, array in arrays.items():
        if not _FIELD.fullmatch(name):
            raise StoreError(
                f"{path}: field {name!r} must be a plain word: letters, digits and underscores"
            )
        if array.ndim == 0 or len(array) != len(table):
            raise StoreError(
                f"{path}: field {name!r} has shape {array.shape}, but the table has {len(table)} rows"
            )
        if array.dtype.name not in DTYPES:
            raise StoreError(
                f"{path}: field {name!r} has dtype {array.dtype}; convert it to one of {', '.join(DTYPES)}"
            )


def _payloads(
    arrays: Mapping[str, NDArray[Any]], layouts: Mapping[str, Layout], table: pd.DataFrame
) -> dict[str, _Payload]:
    """Return how to make each file, by suffix; an empty array has no shard object."""
    payloads: dict[str, _Payload] = {
        f".zarr/{name}/{layout.key}": partial(encode, arrays[name], layout)
        for name, layout in sorted(layouts.items(), key=lambda item: -arrays[item[0]].nbytes)
        if not layout.is_empty
    }  # the largest first, so that all else is made while it is on its way
    payloads |= {f".zarr/{name}/zarr.json": layout.metadata for name, layout in layouts.items()}
    return payloads | {".zarr/zarr.json": lambda: GROUP, ".parquet": partial(parquet, table)}


def _finished(
    store: Store, path: str, marker: Marker, payloads: dict[str, _Payload]
) -> Marker | None:
    """Return the marker that is there if the content is the same; clear the way if it differs and
    may be replaced.
    """
    published = store.is_published(path)  # asked first: what is published has its markers
    previous = read_marker(store, path)
    if previous:
        same = _save(
            payloads, replace(marker, seconds=previous.seconds), lambda suffix, parts: None
        )
        if same.to_bytes() == previous.to_bytes():
            return previous
    if published:
        raise PublishedError(
            f"{store.url}/{path}: this version is published and stays as it is; take another name"
        )
    if previous:
        store.delete(f"{path}.json")  # first, so that a kill in between leaves an unfinished shard
        store.delete(f"{path}.zarr")
    return None


def _save(payloads: dict[str, _Payload], marker: Marker, put: _Put, writers: int = 1) -> Marker:
    """Make and put all files, and sum them meanwhile; return the marker with their checksums."""
    with ThreadPoolExecutor(len(payloads)) as makers, ThreadPoolExecutor(writers) as putters:
        made: dict[str, Future[bytes | Encoded]] = {}
        puts = []
        for suffix, make in payloads.items():
            made[suffix] = makers.submit(make)
            puts.append(putters.submit(lambda key: put(key, _parts(made[key].result())), suffix))
        sums = {suffix: _sum(future.result()) for suffix, future in made.items()}
        for done in puts:
            done.result()
    checks = {
        name: sums[marker.suffix(name)][1].hex()
        for name in marker.fields
        if marker.suffix(name) in sums
    }
    return replace(
        marker, files={suffix: file for suffix, (file, _) in sums.items()}, checks=checks
    )


def _parts(content: bytes | Encoded) -> list[bytes | memoryview]:
    return content.parts if isinstance(content, Encoded) else [content]


def _sum(content: bytes | Encoded) -> tuple[FileSum, bytes]:
    if isinstance(content, bytes):
        return FileSum.of(content), b""
    checks = content.checks()
    return content.sum(checks), checks
