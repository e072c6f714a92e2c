"""Verify: reads every byte and reports what is missing, truncated or changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from infra.store.errors import FormatError, MissingError, StoreError
from infra.store.layout import CHECK_BYTES, Encoded
from infra.store.manifest import Manifest, ShardSum, read_version
from infra.store.marker import Marker, check_marker, read_marker
from infra.store.publications import published_sum
from infra.store.seal import FileSum
from infra.store.store import Store, check_name

__all__ = ["Problem", "run_folder", "verify_run", "verify_version"]

_T = TypeVar("_T")
_SUFFIXES = (".json", ".parquet", ".zarr")


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written: its path in the store, and what is wrong."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def verify_version(store: Store, version: str) -> list[Problem]:
    """Return all that is wrong with a published version; empty if every byte is as published.

    Files beside it that its manifest does not list are ignored, such as shards of a publication
    that lost a race. Raises `MissingError` if there is no such version.
    """
    folder = f"versions/{version}"
    try:
        manifest = read_version(store, version)
    except MissingError:
        raise
    except StoreError as error:
        return [Problem(f"{folder}/manifest.json", str(error))]
    loose = _each(
        store,
        lambda name: _check_file(store, f"{folder}/{name}", manifest.files[name]),
        manifest.files,
    )
    shards = _each(store, lambda name: _check_published(store, manifest, name), manifest.shards)
    return [*_check_manifest(store, manifest), *loose, *shards]


def verify_run(store: Store, run: str, expected: Mapping[str, Collection[str]]) -> list[Problem]:
    """Return all that is wrong with the stages of a run that have begun.

    That is damage of any shard, and shards that are missing. `expected` are the names of the
    shards that a stage has to have, by the stage's folder; a folder that is not in it is checked
    for damage only. Raises `MissingError` if there is no such run.
    """
    folder = run_folder(store, run)
    stages = [name for name in store.list(folder) if "." not in name]
    paths = []
    for stage in stages:
        names = set(expected.get(stage, ())) | _shard_names(store, f"{folder}/{stage}")
        paths += [f"{folder}/{stage}/{name}" for name in sorted(names)]
    return _each(store, lambda path: _check_shard(store, path), paths)


def run_folder(store: Store, run: str) -> str:
    """Return the folder of a run. Raises `MissingError` with the known runs if there is none."""
    folder = f"runs/{check_name('run', run)}"
    if not store.exists(folder):
        known = ", ".join(store.list("runs")) or "none"
        raise MissingError(f"no run {run!r} in {store.url}; there are: {known}")
    return folder


def _each(
    store: Store, check: Callable[[_T], Iterable[Problem]], items: Iterable[_T]
) -> list[Problem]:
    with ThreadPoolExecutor(store.place.readers) as pool:
        return list(itertools.chain.from_iterable(pool.map(lambda item: list(check(item)), items)))


def _shard_names(store: Store, folder: str) -> set[str]:
    return {name.rpartition(".")[0] for name in store.list(folder) if name.endswith(_SUFFIXES)}


def _check_manifest(store: Store, manifest: Manifest) -> Iterator[Problem]:
    path = f"versions/{manifest.version}/manifest.json"
    agreed = published_sum(store, manifest)
    if agreed not in (None, FileSum.of(manifest.to_bytes()).sha256):
        yield Problem(path, "is not the manifest that was published")


def _check_published(store: Store, manifest: Manifest, name: str) -> Iterator[Problem]:
    path = f"versions/{manifest.version}/data/{name}"
    try:
        marker = read_marker(store, path)
    except FormatError:  # reported by _check_shard
        marker = None
    if marker and ShardSum.of(marker) != manifest.shards[name]:
        yield Problem(f"{path}.json", "is not the marker that was published")
    yield from _check_shard(store, path)


def _check_shard(store: Store, path: str) -> Iterator[Problem]:
    try:
        marker = check_marker(store, path)
    except FormatError as error:
        yield Problem(f"{path}.json", str(error))
        return
    except MissingError as error:
        yield Problem(
            f"{path}.json", f"the shard is missing: it has no valid marker{_reason(error)}"
        )
        return
    fields = {marker.suffix(field): field for field in marker.fields}
    for suffix, expected in marker.files.items():
        if suffix in fields:
            yield from _check_object(store, path, marker, fields[suffix])
        else:
            yield from _check_file(store, path + suffix, expected)


def _reason(error: MissingError) -> str:
    return f" ({error.__cause__})" if isinstance(error.__cause__, ValueError) else ""


def _check_file(store: Store, path: str, expected: FileSum) -> Iterator[Problem]:
    try:
        found = FileSum.of(store.read_bytes(path))
    except MissingError:
        yield Problem(path, "is missing")
        return
    if found.size != expected.size:
        yield Problem(path, f"has {found.size} bytes instead of {expected.size}")
    elif found != expected:
        yield Problem(path, "has changed: its checksum differs")


def _check_object(store: Store, path: str, marker: Marker, field: str) -> Iterator[Problem]:
    suffix = marker.suffix(field)
    expected = marker.files[suffix]
    try:
        data = store.read_bytes(path + suffix)
        encoded = Encoded.parse(data, marker.fields[field])
    except MissingError:
        yield Problem(path + suffix, "is missing")
    except ValueError as error:
        yield Problem(
            path + suffix, f"{error}; it has {len(data)} bytes, {expected.size} were written"
        )
    else:
        checks = encoded.checks()
        damaged = [
            name
            for at, name in enumerate(marker.ids)
            if _at(checks, at) != _at(bytes.fromhex(marker.checks[field]), at)
        ]
        if damaged:
            yield Problem(path + suffix, f"has changed: damaged samples: {', '.join(damaged)}")
        elif encoded.sum(checks) != expected:
            yield Problem(
                path + suffix,
                f"has changed: it has {len(data)} bytes, {expected.size} were written",
            )


def _at(checks: bytes, number: int) -> bytes:
    return checks[CHECK_BYTES * number : CHECK_BYTES * (number + 1)]
