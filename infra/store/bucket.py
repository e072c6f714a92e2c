"""A store in a bucket, or in any other remote file system that fsspec supports.

An object is written by one PUT, so it appears whole or not at all. Failures that may be temporary,
such as an unreachable endpoint, are retried with growing pauses for `retry_seconds`. Others, such
as wrong credentials, raise an error at once.
"""

from __future__ import annotations

import errno
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import fsspec
from botocore.exceptions import (
    NoCredentialsError,
    PartialCredentialsError,
)

from infra.credentials import remember, scrub
from infra.store.errors import CorruptShardError, MissingError, StoreError
from infra.store.place import Usage
from infra.store.url import endpoint_of

__all__ = ["RETRY_SECONDS", "Bucket"]

# How long an endpoint may be unreachable before a run gives up, unless the options say otherwise. A
# minute is too short: after a disk was full for 15 s, Swift's proxy left it out for another minute
# (error_suppression_interval).
RETRY_SECONDS = 300.0
LONGEST_PAUSE = 5.0  # seconds between two attempts
_KEYS = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may list, read, write and "
    "delete in this bucket"
)
_FORBIDDEN = (PermissionError, NoCredentialsError, PartialCredentialsError)
_WRONG = (ValueError, TypeError, NotImplementedError, ImportError)
# s3fs: the request itself is refused
_WRONG_ERRNO = {errno.EINVAL, errno.ENOSYS, errno.EMSGSIZE, errno.ENAMETOOLONG}
_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class Bucket:
    """Objects below `url`, such as `s3://bucket/prefix`; `options` go to the fsspec file system.

    `options["retry_seconds"]` (default 300) is for this class. Credentials may be in `options` or
    in the environment; they never appear in a message.
    """

    writers = 8
    readers = 8

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        rest = dict(options)
        self.patience = float(rest.pop("retry_seconds", RETRY_SECONDS))
        self.url = url
        remember(options)
        protocol = url.partition("://")[0]
        self._whole: dict[str, int] = {}
        if protocol in ("s3", "s3a"):
            rest = _s3_options(rest)
            self._whole = {"max_concurrency": 1}  # else s3fs requests the size before each GET
        self._files = self._call("", fsspec.filesystem, protocol, **rest)
        self._root: str = self._files._strip_protocol(url)

    def get(self, path: str) -> bytes:
        """Return the whole object."""
        data: bytes = self._call(path, self._files.cat_file, self._key(path), **self._whole)
        return data

    def fill(self, pieces: Sequence[tuple[str, int, memoryview]]) -> None:
        """Fill the buffer of each `(path, start, buffer)` from that byte on, in parallel.

        Raises `CorruptShardError` if an object is too short.
        """
        if not pieces:
            return
        found = self._call(pieces[0][0], self._ranges, pieces)
        for (path, start, buffer), data in zip(pieces, found, strict=True):
            if len(data) != len(buffer):
                raise CorruptShardError(
                    f"{self.url}/{path} ends before byte {start + len(buffer)}; "
                    "delete the shard's marker and run the stage again"
                )
            buffer[:] = data

    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write the concatenated parts as one object."""
        try:
            self._call(path, self._files.pipe_file, self._key(path), b"".join(parts))
        except MissingError as error:
            raise StoreError(
                f"{self.url}: there is no such bucket; create it or correct the store url"
            ) from error

    def exists(self, path: str) -> bool:
        """Whether an object exists at `path` or below it."""
        return bool(self._call(path, self._files.exists, self._key(path)))

    def delete(self, path: str) -> None:
        """Delete an object and all objects below it, if there are any."""
        try:
            self._call(path, self._files.rm, self._key(path), recursive=True)
        except MissingError:
            return

    def list(self, path: str) -> list[str]:
        """Return the names directly below `path`, unsorted; none if it does not exist."""
        try:
            keys = self._call(path, self._files.ls, self._key(path), detail=False)
        except MissingError:
            return []
        return [
            key.rstrip("/").rpartition("/")[2]
            for key in keys
            if key.strip("/") != self._key(path).strip("/")
        ]

    def is_link(self, path: str) -> bool:
        """Whether `path` is a link; a bucket has none."""
        return False

    def usage(self, path: str) -> Usage:
        """Return size and age of all objects at and below `path`.

        Objects without a time count as new, so that nothing takes them for old.
        """
        try:
            found = self._call(path, self._files.find, self._key(path), detail=True).values()
        except MissingError:
            found = []
        times = [
            info.get("LastModified") or info.get("mtime") or info.get("created") for info in found
        ]
        return Usage(
            sum(info["size"] or 0 for info in found), max(map(_seconds, times), default=0.0)
        )

    def _key(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _ranges(self, pieces: Sequence[tuple[str, int, memoryview]]) -> Sequence[bytes]:
        keys = [self._key(path) for path, _, _ in pieces]
        starts = [start for _, start, _ in pieces]
        stops = [start + len(buffer) for _, start, buffer in pieces]
        found: Sequence[bytes] = self._files.cat_ranges(keys, starts, stops, on_error="return")
        return [_bytes_or_raise(data) for data in found]

    def _call(self, path: str, method: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Call `method`, again after temporary failures, until `patience` seconds have passed."""
        deadline = time.monotonic() + self.patience
        for attempt in itertools.count():
            try:
                return method(*arguments, **named)
            except Exception as error:
                pause = min(LONGEST_PAUSE, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)
                fatal = self._fatal(path, error)
                if fatal is None and time.monotonic() + pause > deadline:
                    fatal = self._given_up(path, error)
                problem = _text(error)
            if fatal:  # out here it has no context, which Prefect would store, credentials and all
                raise fatal
            if attempt == 0:
                _logger.warning("%s: %s; trying for %g s", self.url, problem, self.patience)
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _fatal(self, path: str, error: Exception) -> StoreError | None:
        where = f"{self.url}/{path}".rstrip("/")
        if isinstance(error, FileNotFoundError):
            return MissingError(f"{where} is not there")
        if isinstance(error, _FORBIDDEN):
            return StoreError(f"{where}: refused ({_text(error)}): {_KEYS}")
        if isinstance(error, _WRONG) or (
            isinstance(error, OSError) and error.errno in _WRONG_ERRNO
        ):
            return StoreError(f"{where}: {_text(error)}: check the store's url and options")
        return None

    def _given_up(self, path: str, error: Exception) -> StoreError:
        return StoreError(
            f"{self.url}/{path}: no answer for {self.patience:g} s ({_text(error)}): "
            "everything finished is kept; bring the endpoint back and run again, or correct "
            "AWS_ENDPOINT_URL"
        )


def _text(error: Exception) -> str:
    return scrub(f"{type(error).__name__}: {error}")


def _seconds(written: Any) -> float:
    if written is None:
        return time.time()
    return float(written.timestamp() if hasattr(written, "timestamp") else written)


def _bytes_or_raise(data: Any) -> bytes:
    if isinstance(data, OSError) and data.errno == errno.EINVAL:
        return b""  # 416: the object ends before the range
    if isinstance(data, BaseException):
        raise data
    return bytes(data)


def _s3_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with what a store needs of s3fs.

    No stale listings, one layer of retries, and path-style URLs for custom endpoints.
    """
    config = {"retries": {"total_max_attempts": 1}, **options.get("config_kwargs", {})}
    if endpoint_of(options):
        config.setdefault("s3", {"addressing_style": "path"})
    return {"use_listings_cache": False, **options, "config_kwargs": config}
