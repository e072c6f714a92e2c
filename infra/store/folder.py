"""A store in a folder. Files appear whole or not at all.

Reading follows links. Writing and deleting follow none below the root, because a link may lead out
of the store: each folder on the way is opened inside the one before it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path, PurePath

from infra.store.errors import CorruptShardError, MissingError, StoreError
from infra.store.place import Usage

__all__ = ["Folder"]

BUFFER = 1 << 20  # bytes; joins small parts of a file into writes of full speed
ABANDONED = 3600.0  # seconds; no running writer leaves its partial file untouched that long
# Unfinished files; they are never listed. Other programs have files that end in .partial as well.
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
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
    errno.ELOOP: f"a store writes and deletes through no link; put a folder there or {_ELSEWHERE}",
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
                got = _read_at(file, start, buffer)
            if got != len(buffer):
                raise CorruptShardError(
                    f"{self.root}/{path} ends before byte {start + len(buffer)}; "
                    "delete the shard's marker and run the stage again"
                )

    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write the concatenated parts as one file, which is on disk before it becomes visible.

        Journalling file systems keep the order of renames across a power failure, so a marker never
        exists without its data.
        """
        with self._explained(path), self._parent(path, make=True) as (folder, name):
            _sweep(folder)
            partial = f".{name}.{secrets.token_hex(8)}.partial"
            try:
                _write_through(partial, folder, parts)
                os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=folder)

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists at `path`."""
        with self._explained(path):
            return Path(self.root, path).exists()

    def list(self, path: str) -> list[str]:
        """Return the names directly below `path`, unsorted; none if it does not exist."""
        with self._explained(path):
            folder = Path(self.root, path)
            names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
        return [name for name in names if not _PARTIAL.fullmatch(name)]

    def is_link(self, path: str) -> bool:
        """Whether `path` is a link or leads through one; the root may be one."""
        below = [path, *map(str, PurePath(path).parents)]
        return any(Path(self.root, each).is_symlink() for each in below if each not in ("", "."))

    def delete(self, path: str) -> None:
        """Delete a file, a link or a whole folder, if it exists."""
        with self._explained(path):
            try:
                with self._parent(path) as (folder, name):
                    if _is(stat.S_ISDIR, name, folder):
                        shutil.rmtree(name, dir_fd=folder)
                    else:
                        os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                if os.path.lexists(f"{self.root}/{path}"):  # only a part of it vanished meanwhile
                    raise

    def usage(self, path: str) -> Usage:
        """Return size and age of all files at and below `path`, also of unfinished ones.

        Links count as small files. A file that vanishes meanwhile is being written, so it is new.
        """
        with self._explained(path):
            found = [_size_and_time(file) for file in _files(f"{self.root}/{path}")]
        return Usage(sum(size for size, _ in found), max((time for _, time in found), default=0.0))

    @contextmanager
    def _parent(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder that holds `path`, through no link, and yield it with the last name.

        `make` makes the folders that are missing.
        """
        *parts, name = path.split("/")
        if make:
            os.makedirs(self.root, exist_ok=True)  # noqa: PTH103
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts:
                inner = _inner(part, folder, make)
                os.close(folder)
                folder = inner
            yield folder, name
        finally:
            os.close(folder)

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


def _inner(name: str, folder: int, make: bool) -> int:
    """Open a folder inside an open one. Raises `OSError` for a link."""
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
    if _is(stat.S_ISLNK, name, folder):  # O_NOFOLLOW refuses it too, but says "not a directory"
        raise OSError(errno.ELOOP, f"{name} is a link")
    return os.open(name, _FOLDER, dir_fd=folder)


def _is(kind: Callable[[int], bool], name: str, folder: int) -> bool:
    return kind(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _read_at(file: FileIO, start: int, buffer: memoryview) -> int | None:
    """Fill the buffer from byte `start` on; return the number of bytes read."""
    try:
        file.seek(start)
    except OverflowError:  # a marker may say that a file has 2⁶⁴ bytes
        return 0
    return file.readinto(buffer)


def _write_through(name: str, folder: int, parts: Iterable[bytes | memoryview]) -> None:
    def opened(name: str, flags: int) -> int:
        return os.open(name, flags, 0o666, dir_fd=folder)

    with open(name, "xb", buffering=BUFFER, opener=opened) as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path) or os.path.islink(path):  # noqa: PTH112, PTH114
        if os.path.lexists(path):
            yield path
        return
    for folder, _, names in os.walk(path, onerror=_refuse):
        yield from (f"{folder}/{name}" for name in names)


def _refuse(error: OSError) -> None:
    """Raise the error of a folder that cannot be read: what it holds may be new."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _size_and_time(file: str) -> tuple[int, float]:
    try:
        found = os.lstat(file)
    except FileNotFoundError:
        return 0, time.time()
    return found.st_size, found.st_mtime


def _sweep(folder: int) -> None:
    """Delete unfinished files of killed writers."""
    for entry in os.scandir(folder):
        if _PARTIAL.fullmatch(entry.name):
            with suppress(FileNotFoundError):  # its writer has just renamed it
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED:
                    os.unlink(entry.name, dir_fd=folder)
