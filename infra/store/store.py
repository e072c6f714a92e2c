"""One root, a folder or a bucket, under which everything lies: runs, versions, checkpoints. The only way to it."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd

from infra.store.errors import PublishedError, StoreError
from infra.store.folder import Folder
from infra.store.place import Place, Usage

__all__ = ["Store"]

_PROBE_BYTES = 1 << 16


@dataclass(frozen=True)
class Store:
    """A root URL and how to reach it; picklable, and opened anew in each process.

    `url` is an absolute folder or a URL such as `s3://bucket/prefix`; `options` go to fsspec (`retry_seconds`: how long
    an endpoint may stay away) and are shown nowhere. All paths are relative to the root. Methods raise `StoreError`
    with the remedy, and `MissingError` where nothing lies at a path that is to be read.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any] | None = None) -> Store:
        """Return the store at a folder, `file://` or remote URL; nothing is touched yet."""
        return cls(_resolved(url), dict(options or {}))

    @property
    def place(self) -> Place:
        """The opened folder or bucket of this process."""
        opened: tuple[int, Place] | None = self.__dict__.get("_opened")
        if opened is None or opened[0] != os.getpid():  # a connection must not cross a fork
            opened = (os.getpid(), _opened(self.url, self.options))
            self.__dict__["_opened"] = opened
        return opened[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.url, self.options)

    def exists(self, path: str) -> bool:
        """Whether a file lies at `path` or below it."""
        return self.place.exists(_relative(path))

    def list(self, path: str = "") -> list[str]:
        """Return the names directly below `path`, sorted; none if nothing is there."""
        return sorted(self.place.list(_relative(path)))

    def delete(self, path: str) -> None:
        """Remove a file or everything below `path`; nothing there is fine."""
        self.place.delete(_relative(path))

    def usage(self, path: str) -> Usage:
        """Size and age of a file or of everything below `path`, which is listed for it."""
        return self.place.usage(_relative(path))

    def read_bytes(self, path: str) -> bytes:
        """Return a whole file."""
        return self.place.get(_relative(path))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all; in a published version only what is there already may be written."""
        path = _relative(path)
        if not self.is_published(path):
            self.place.put(path, [data])
        elif not self.exists(path) or self.read_bytes(path) != data:
            raise PublishedError(f"{self.url}/{path}: this version is published and stays as it is; take another name")

    def is_published(self, path: str) -> bool:
        """Whether `path` lies in a dataset version that has its manifest."""
        top, _, rest = path.partition("/")
        return top == "versions" and "/" in rest and self.exists(f"versions/{rest.split('/')[0]}/manifest.json")

    def read_json(self, path: str) -> Any:
        """Return the value of a JSON file."""
        try:
            return json.loads(self.read_bytes(path))
        except ValueError as error:
            raise StoreError(f"{self.url}/{path} is not JSON ({error}); delete it and run again") from error

    def write_json(self, path: str, value: Any) -> None:
        """Write a value as JSON with sorted keys; numpy numbers and arrays become plain ones."""
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=plain)
        self.write_bytes(path, text.encode())

    def read_table(self, path: str) -> pd.DataFrame:
        """Return a Parquet file as a table; columns of lists hold lists."""
        data = self.read_bytes(path)
        try:
            table = pd.read_parquet(io.BytesIO(data))
        except (OSError, ValueError) as error:  # pyarrow's errors are either
            raise StoreError(f"{self.url}/{path} is not Parquet ({error}); delete it and run again") from error
        for name in [name for name in table.columns if pd.api.types.is_object_dtype(table[name])]:
            table[name] = [value.tolist() if isinstance(value, np.ndarray) else value for value in table[name]]
        return table

    def write_table(self, path: str, table: pd.DataFrame) -> None:
        """Write a table as Parquet, without its index."""
        self.write_bytes(path, parquet(table))

    def probe(self) -> None:
        """Write, read, list and delete a small file, so that what is wrong with a store shows before a run begins."""
        path, data = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(_PROBE_BYTES)
        self.write_bytes(path, data)
        found = self.read_bytes(path), path in self.list()
        self.delete(path)
        if found != (data, True):
            raise StoreError(f"{self.url}: reads or lists other than what was written; set another store url")


def parquet(table: pd.DataFrame) -> bytes:
    """Return the table as a Parquet file; equal tables give equal bytes."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def plain(value: Any) -> Any:
    """Return a numpy number or array as JSON can hold it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _resolved(url: str) -> str:
    protocol, mark, rest = url.partition("://")
    if not mark or protocol in ("file", "local"):
        return str(Path(rest if mark else url).expanduser().resolve())
    if protocol not in fsspec.available_protocols():
        raise StoreError(f"store url {url!r}: unknown protocol {protocol!r}; use a folder or s3://bucket/prefix")
    if not rest.strip("/") and protocol != "memory":
        raise StoreError(f"store url {url!r} names no bucket; use s3://bucket/prefix")
    if "@" in rest.split("/")[0]:
        raise StoreError(f"store url of {protocol}: credentials belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return url.rstrip("/")


def _opened(url: str, options: Mapping[str, Any]) -> Place:
    if "://" not in url:
        return Folder(url)
    from infra.store.bucket import Bucket  # half a second of imports that a folder does not need

    return Bucket(url, options)


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise StoreError(f"path {path!r} leads out of the store; it must be relative, without '..'")
    return path.strip("/")
