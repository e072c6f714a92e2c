"""The store: one folder or bucket that holds runs, versions and checkpoints.

All access goes through this module.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from infra.parsing import check_json, parse_json
from infra.store.errors import PublishedError, StoreError
from infra.store.folder import Folder
from infra.store.mark import claim, forget
from infra.store.place import Place, Usage
from infra.store.seal import plain
from infra.store.tables import as_frame, parquet, parse_table
from infra.store.url import resolve_url
from infra.text import UNSEEN

__all__ = ["NAME", "Store", "as_json", "check_name"]

# Name of a run, version, checkpoint or shard: one part of a path and one word in a shell.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_LONGEST = 255  # bytes of a part of a path, on all common file systems
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True)
class Store:
    """A root URL with its fsspec options. Picklable; each process opens its own connection.

    `url` is an absolute folder or a URL such as `s3://bucket/prefix`. `options` go to fsspec, apart
    from `retry_seconds`, how long an endpoint may be unreachable; they are never shown. All paths
    are relative to the root. Methods raise `StoreError` with the remedy, and `MissingError` if a
    path to read does not exist.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    # folders whose mark this object has written or seen
    _claimed: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any] | None = None) -> Store:
        """Return the store at a folder, `file://` or remote URL. Nothing is accessed yet."""
        return cls(resolve_url(url), dict(options or {}))

    @property
    def place(self) -> Place:
        """The folder or bucket, opened for this process."""
        opened: tuple[int, Place] | None = self.__dict__.get("_opened")
        if opened is None or opened[0] != os.getpid():  # a connection must not cross a fork
            opened = (os.getpid(), _opened(self.url, self.options))
            self.__dict__["_opened"] = opened
        return opened[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.url, self.options)

    def exists(self, path: str) -> bool:
        """Whether a file exists at `path` or below it."""
        return self.place.exists(_relative(path))

    def list(self, path: str = "") -> list[str]:
        """Return the names directly below `path`, sorted; none if it does not exist."""
        return sorted(self.place.list(_relative(path)))

    def is_link(self, path: str) -> bool:
        """Whether `path` is a link or leads through one. Only folders on disk have links."""
        return self.place.is_link(_relative(path))

    def delete(self, path: str) -> None:
        """Delete a file, or everything below `path`, if it exists. A link is not followed.

        Raises `StoreError` for the empty path, which is the whole store.
        """
        if not path:
            raise StoreError(f"{self.url} is not deleted as a whole; name what is in it")
        path = _relative(path)
        forget(path, self._claimed)
        self.place.delete(path)

    def usage(self, path: str) -> Usage:
        """Return size and age of a file, or of everything below `path`, which is listed for it."""
        return self.place.usage(_relative(path))

    def read_bytes(self, path: str) -> bytes:
        """Return a whole file."""
        return self.place.get(_relative(path))

    def write_bytes(self, path: str, data: bytes | memoryview) -> None:
        """Write a file, whole or not at all.

        Raises `PublishedError` in a published version, unless the file already has this content.
        """
        path = _relative(path)
        if not self.is_published(path):
            self.claim(path)
            self.place.put(path, [data])
        elif not self.exists(path) or self.read_bytes(path) != data:
            raise PublishedError(
                f"{self.url}/{path}: this version is published and stays as it is; "
                "take another name"
            )

    def claim(self, path: str) -> None:
        """Mark the run, version or checkpoint that `path` is in as segmint's (`infra.store.mark`).

        Every write does it first.
        """
        claim(self.place, path, self._claimed)

    def is_published(self, path: str) -> bool:
        """Whether `path` is in a published dataset version, that is, one with a manifest."""
        top, _, rest = path.partition("/")
        return (
            top == "versions"
            and "/" in rest
            and self.exists(f"versions/{rest.split('/')[0]}/manifest.json")
        )

    def read_json(self, path: str, shape: Any = Any) -> Any:
        """Return the value of a JSON file.

        Raises `StoreError` if the file is no JSON, or does not fit `shape`, such as a model.
        """
        data = self.read_bytes(path)
        try:
            value = parse_json(data)
        except ValueError as error:
            raise StoreError(
                f"{self.url}/{path} is not JSON ({error}); delete it and run again"
            ) from error
        try:
            check_json(value, shape)
        except ValueError as error:
            raise StoreError(
                f"{self.url}/{path} is not what belongs there ({error}); delete it and run again"
            ) from error
        return value

    def write_json(self, path: str, value: Any) -> None:
        """Write a value as JSON with sorted keys; numpy numbers and arrays become plain ones."""
        self.write_bytes(path, as_json(path, value))

    def read_table(self, path: str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Return the table of a Parquet file. Columns of lists hold Python lists.

        `columns` are the columns that must exist without gaps, with their kinds: "bool", "int",
        "str", "list[int]" or "list[str]". Raises `StoreError` for a file that is damaged or has no
        seal, and for one that declares more rows than it can hold.
        """
        data = self.read_bytes(path)
        try:
            return as_frame(parse_table(data, columns or {}))
        except Exception as error:  # damage leads pyarrow and pandas to errors of every kind
            raise StoreError(
                f"{self.url}/{path} is not Parquet ({error}); delete it and run again"
            ) from error

    def write_table(self, path: str, table: pd.DataFrame) -> None:
        """Write a table as Parquet, without its index."""
        self.write_bytes(path, parquet(table))

    def probe(self) -> None:
        """Write, read, list and delete a small file, to find faults before a run begins."""
        path = f".probe-{secrets.token_hex(8)}"
        data = secrets.token_bytes(_PROBE_BYTES)
        self.place.put(path, [data])  # without a mark: it may not become a store
        found = self.read_bytes(path)
        listed = path in self.list()
        self.delete(path)
        if found != data or not listed:
            raise StoreError(
                f"{self.url}: reads or lists other than what was written; set another store url"
            )


def check_name(what: str, name: str) -> str:
    """Return `name`, the name of a run, version or checkpoint.

    Raises `StoreError` unless it can only be the name of a folder.
    """
    if not re.fullmatch(NAME, name) or len(name) > _LONGEST:
        raise StoreError(
            f"{what} {name[:_LONGEST]!r} is no name: use letters, digits, '.', '_' and '-', "
            f"a letter or digit first, {_LONGEST} at most"
        )
    return name


def as_json(path: str, value: Any) -> bytes:
    """Return what `Store.write_json` writes. Raises `StoreError`, with `path`, for no number."""
    try:
        text = json.dumps(
            value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False, default=plain
        )
    except ValueError as error:  # NaN or infinity, which `read_json` refuses
        raise StoreError(f"{path}: {error}; fix the code that computed it") from error
    return text.encode()


def _opened(url: str, options: Mapping[str, Any]) -> Place:
    if "://" not in url:
        return Folder(url)
    from infra.store.bucket import Bucket  # half a second of imports, not needed for a folder

    return Bucket(url, options)


def _relative(path: str) -> str:
    parts = path.rstrip("/").split("/")
    if path.startswith("/") or ".." in parts:
        raise StoreError(f"path {path!r} leads out of the store; it must be relative, without '..'")
    if path and any(
        part in ("", ".") or UNSEEN.search(part) or len(part.encode()) > _LONGEST for part in parts
    ):
        raise StoreError(
            f"path {path[: 2 * _LONGEST]!r} has a part that is no name: empty, '.', longer than "
            f"{_LONGEST} bytes, or with characters that cannot be seen; correct the name"
        )
    return "/".join(parts)
