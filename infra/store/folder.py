"""A folder as the place where a dataset lies: files appear whole or not at all."""

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

BUFFER = (
    1 << 20
)  # bytes; joins the small parts of a file into writes that the kernel takes at full speed
ABANDONED = 3600.0  # seconds; no living writer leaves its partial file untouched that long
PARTIAL = ".partial"  # suffix of a file under way; names that end so are never listed
_REMEDIES = {
    errno.ENOSPC: "the disk is full; make room or set another store url, then run again: finished shards are kept",
    errno.EDQUOT: "the quota is used up; make room or set another store url, then run again: finished shards are kept",
    errno.EACCES: "this user may not do that; change the folder's permissions or set another store url",
    errno.EPERM: "this user may not do that; change the folder's permissions or set another store url",
    errno.EROFS: "the file system is read-only; set another store url",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away or set another store url",
    errno.EEXIST: "a file stands where a folder is needed; move it away or set another store url",
    errno.EISDIR: "a folder stands where a file is needed; move it away or set another store url",
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
            except NotADirectoryError as error:  # below a file lies nothing
                raise FileNotFoundError(path) from error

    def fill(self, pieces: Sequence[tuple[str, int, memoryview]]) -> None:
        """Fill each buffer of `(path, start, buffer)` from there on;

        `CorruptShardError` where a file ends before.
        """
        for path, start, buffer in pieces:
            with self._explained(path), open(f"{self.root}/{path}", "rb", buffering=0) as file:  # noqa: PTH123 - hot path
                file.seek(start)
                got = file.readinto(buffer)
            if got != len(buffer):
                raise CorruptShardError(
                    f"{self.root}/{path} ends at byte {start + got}; "
                    "delete the shard's marker and run the stage again"
                )

    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write the parts, one after another, as one file that is on the disk before it can be
        seen.

        The order of two renames survives a power cut on journalling file systems, so a marker never
        outlives its data.
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
        """Whether a file or folder lies there."""
        with self._explained(path):
            return Path(self.root, path).exists()

    def list(self, path: str) -> list[str]:
        """Return the names directly below, in no order; none if the folder is not there."""
        with self._explained(path):
            folder = Path(self.root, path)
            names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - names are all we need
        return [name for name in names if not name.endswith(PARTIAL)]

    def delete(self, path: str) -> None:
        """Remove a file or a whole folder; nothing there is fine."""
        target = Path(self.root, path)
        with self._explained(path):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def usage(self, path: str) -> Usage:
        """Size and age of what lies there; unlike `list`, it counts files under way."""
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
    """Remove what killed writers left behind."""
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # a living writer has just finished with it
            if entry.name.endswith(PARTIAL) and time.time() - entry.stat().st_mtime > ABANDONED:
                Path(entry).unlink()
