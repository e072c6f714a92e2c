"""A store in a folder. Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.store.errors import CorruptShardError, MissingError, StoreError
from infra.store.place import Usage

__all__ = ["Folder"]

BUFFER = 1 << 20  # bytes; joins small parts of a file into writes of full speed
ABANDONED = 3600.0  # seconds; no running writer leaves its partial file untouched that long
PARTIAL = ".partial"  # suffix of unfinished files; they are never listed
_ELSEWHERE = "set another store url"
_MAKE_ROOM = f"make room or {_ELSEWHERE}, then run again: finished shards are kept"
_PERMISSIONS = f"change the folder's permissions or {_ELSEWHERE}"
_REMEDIES = {
    errno.ENOSPC: f"the disk is full; {_MAKE_ROOM}",
    errno.EDQUOT: f"the quota is used up; {_MAKE_ROOM}",
    errno.EACCES: f"this user may not do that; {_PERMISSIONS}",
    errno.EPERM: f"this user may not do that; {_PERMISSIONS}",
    errno.EROFS: f"the file system is read-only; {_ELSEWHERE}",
    errno.ENOTDIR: f"a file exists where a folder is needed; move it away or {_ELSEWHERE}",
    errno.EEXIST: f"a file exists where a folder is needed; move it away or {_ELSEWHERE}",
    errno.EISDIR: f"a folder exists where a file is needed; move it away or {_ELSEWHERE}",
}


class Folder:
    """Files below `root`, an absolute path."""

    writers = 3  # the largest file, the next one, and the small ones
    readers = 2

    def __init__(self, root: str) -> None:
        self.root = root

    def get(self, path: str) -> bytes:
        """Return the whole file."""
        with self._explained(path):
            try:
                return Path(self.root, path).read_bytes()
            except NotADirectoryError as error:  # a part of the path is a file
                raise FileNotFoundError(path) from error

    def fill(self, pieces: Sequence[tuple[str, int, memoryview]]) -> None:
        """Fill the buffer of each `(path, start, buffer)` from that byte on.

        Raises `CorruptShardError` if a file is too short.
        """
        for path, start, buffer in pieces:
            name = f"{self.root}/{path}"
            with self._explained(path), open(name, "rb", buffering=0) as file:  # noqa: PTH123
                file.seek(start)
                got = file.readinto(buffer)
            if got != len(buffer):
                raise CorruptShardError(
                    f"{self.root}/{path} ends at byte {start + got}; "
                    "delete the shard's marker and run the stage again"
                )

    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write the concatenated parts as one file, which is on disk before it becomes visible.

        Journalling file systems keep the order of renames across a power failure, so a marker never
        exists without its data.
        """
        target = Path(self.root, path)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}{PARTIAL}")
        with self._explained(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            _sweep(target.parent)
            try:
                _write_through(partial, parts)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists at `path`."""
        with self._explained(path):
            return Path(self.root, path).exists()

    def list(self, path: str) -> list[str]:
        """Return the names directly below `path`, unsorted; none if it does not exist."""
        with self._explained(path):
            folder = Path(self.root, path)
            names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
        return [name for name in names if not name.endswith(PARTIAL)]

    def delete(self, path: str) -> None:
        """Delete a file or a whole folder, if it exists."""
        target = Path(self.root, path)
        with self._explained(path):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def usage(self, path: str) -> Usage:
        """Return size and age of all files at and below `path`, also of unfinished ones."""
        with self._explained(path):
            found = [file.stat() for file in _files(Path(self.root, path))]
        return Usage(
            sum(file.st_size for file in found), max((file.st_mtime for file in found), default=0.0)
        )

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingError(f"{self.root}/{path} is not there") from error
        except OSError as error:
            remedy = _REMEDIES.get(
                error.errno or 0, "check the disk and the folder, then run again"
            )
            raise StoreError(f"{self.root}/{path}: {error.strerror or error}: {remedy}") from error


def _write_through(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    with path.open("xb", buffering=BUFFER) as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _sweep(folder: Path) -> None:
    """Delete unfinished files of killed writers."""
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # its writer has just renamed it
            if entry.name.endswith(PARTIAL) and time.time() - entry.stat().st_mtime > ABANDONED:
                Path(entry).unlink()
