"""Shards: the arrays and columns of one task's samples. One writer writes them, the marker last.

<path>.zarr/     Zarr v3 group: one array per field, one chunk per sample
<path>.parquet   columns of the same samples
<path>.json      marker; a shard without a valid marker counts as not written
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from infra.store.errors import PublishedError, StoreError
from infra.store.layout import DTYPES, GROUP, Encoded, Layout, encode
from infra.store.marker import FIELD, Marker, read_marker
from infra.store.seal import FileSum
from infra.store.store import Store
from infra.store.tables import parquet

__all__ = ["write_shard"]

_Payload = Callable[[], bytes | Encoded]
_Put = Callable[[str, list[bytes | memoryview]], None]


def write_shard(
    store: Store,
    path: str,
    arrays: Mapping[str, NDArray[Any]],
    table: pd.DataFrame,
    stats: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
) -> Marker:
    """Write one shard, its marker last, and return the marker.

    `arrays` maps fields to arrays of shape (n, ...). n is the number of rows of `table`, whose
    column `id` names the samples. The same content gives the same bytes. A shard that already has
    this content is not written again. Raises `StoreError` for content that breaks these rules,
    `FormatError` if a shard of another format exists there, and `PublishedError` for other content
    in a published version.
    """
    _check(path, arrays, table)
    layouts = {name: Layout.of(array) for name, array in sorted(arrays.items())}
    payloads = _payloads(arrays, layouts, table)
    marker = Marker(tuple(table["id"].tolist()), layouts, {}, {}, dict(stats or {}), seconds)
    finished = _finished(store, path, marker, payloads)
    if finished:
        return finished
    store.claim(path)

    def put(suffix: str, parts: list[bytes | memoryview]) -> None:
        store.place.put(path + suffix, parts)

    marker = _save(payloads, marker, put, store.place.writers)
    store.place.put(f"{path}.json", [marker.to_bytes()])
    return marker


def _check(path: str, arrays: Mapping[str, NDArray[Any]], table: pd.DataFrame) -> None:
    if "id" not in table.columns:
        raise StoreError(
            f"{path}: the table has no column 'id', only {list(table.columns)}; add the sample ids"
        )
    ids = table["id"].tolist()
    if len(set(ids)) < len(ids) or not all(isinstance(name, str) for name in ids):
        twice = [name for name, times in Counter(ids).items() if times > 1]
        raise StoreError(f"{path}: ids must be unique strings; given twice: {twice[:5]}")
    for name, array in arrays.items():
        if not FIELD.fullmatch(name):
            raise StoreError(
                f"{path}: field {name!r} must be a plain word: letters, digits and underscores"
            )
        if array.ndim == 0 or len(array) != len(table):
            raise StoreError(
                f"{path}: field {name!r} has shape {array.shape}, "
                f"but the table has {len(table)} rows; give one array row per table row"
            )
        if array.dtype.name not in DTYPES:
            raise StoreError(
                f"{path}: field {name!r} has dtype {array.dtype}; "
                f"convert it to one of {', '.join(DTYPES)}"
            )


def _payloads(
    arrays: Mapping[str, NDArray[Any]], layouts: Mapping[str, Layout], table: pd.DataFrame
) -> dict[str, _Payload]:
    """Return a function that makes each file, by suffix. An empty array has no shard object."""
    payloads: dict[str, _Payload] = {
        f".zarr/{name}/{layout.key}": partial(encode, arrays[name], layout)
        for name, layout in sorted(layouts.items(), key=lambda item: -arrays[item[0]].nbytes)
        if not layout.is_empty
    }  # the largest first, so that the others are encoded while it is uploaded
    payloads |= {f".zarr/{name}/zarr.json": layout.metadata for name, layout in layouts.items()}
    return payloads | {".zarr/zarr.json": lambda: GROUP, ".parquet": partial(parquet, table)}


def _finished(
    store: Store, path: str, marker: Marker, payloads: dict[str, _Payload]
) -> Marker | None:
    """Return the stored marker if the shard has the same content already.

    Otherwise delete the stored shard, or raise `PublishedError` if it is part of a version.
    """
    published = store.is_published(path)  # asked first: what is published has its markers
    previous = read_marker(store, path)
    if previous:
        timeless = replace(marker, seconds=previous.seconds)
        same = _save(payloads, timeless, lambda suffix, parts: None)
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
    """Make and put all files while they are summed; return the marker with their checksums."""
    with ThreadPoolExecutor(len(payloads)) as makers, ThreadPoolExecutor(writers) as putters:
        made: dict[str, Future[bytes | Encoded]] = {}
        puts = []
        for suffix, make in payloads.items():
            made[suffix] = makers.submit(make)
            puts.append(putters.submit(lambda key: put(key, _parts(made[key].result())), suffix))
        sums = {suffix: _sum(future.result()) for suffix, future in made.items()}
        for done in puts:
            done.result()
    suffixes = {name: marker.suffix(name) for name in marker.fields}
    checks = {name: sums[key][1].hex() for name, key in suffixes.items() if key in sums}
    return replace(marker, files={key: file for key, (file, _) in sums.items()}, checks=checks)


def _parts(content: bytes | Encoded) -> list[bytes | memoryview]:
    return content.parts if isinstance(content, Encoded) else [content]


def _sum(content: bytes | Encoded) -> tuple[FileSum, bytes]:
    if isinstance(content, bytes):
        return FileSum.of(content), b""
    checks = content.checks()
    return content.sum(checks), checks
