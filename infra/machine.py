"""The machine of a process: its name, free disk space and GPU memory."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = [
    "OpenFolderError",
    "dask_worker",
    "free_space",
    "machine_name",
    "own_folder",
    "resources",
]


class OpenFolderError(RuntimeError):
    """Somebody else owns, or may write into, the folder for temporary files."""


def own_folder(name: str) -> Path:
    """Return a folder for temporary files that only this user can enter, made if it is missing.

    Raises `OpenFolderError` if another user made it first.
    """
    folder = Path(tempfile.gettempdir()) / f"segmint-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OpenFolderError(
            f"{folder} is not a folder of this user alone, so other users could put code into it; "
            "remove it, or set TMPDIR to another folder"
        )
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def dask_worker() -> Any | None:
    """Return the Dask worker of this thread, None outside one."""
    distributed = sys.modules.get("distributed")  # not imported just to ask
    try:
        return distributed.get_worker() if distributed else None
    except ValueError:  # Dask is loaded, but this thread belongs to no worker
        return None


def machine_name() -> str:
    """Return the Dask worker's name, or the host's outside one."""
    worker = dask_worker()
    return socket.gethostname() if worker is None else str(worker.name)


def resources() -> dict[str, float]:
    """Return bytes free on the disk of the working directory, and used and present on the GPU.

    The GPU's are left out until this process uses one. Unknown values are left out as well.
    """
    found: dict[str, float] = {}
    with suppress(OSError):
        found["disk_free_bytes"] = float(shutil.disk_usage(Path.cwd()).free)
    torch = sys.modules.get("torch")
    # asking an uninitialised GPU would take some hundred megabytes of it
    if torch and torch.cuda.is_initialized():
        with suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info()
            found |= {
                "gpu_memory_used_bytes": float(total - free),
                "gpu_memory_bytes": float(total),
            }
    return found


def free_space(url: str) -> tuple[int, Path] | None:
    """Return the bytes free where the folder `url` is or will be, with its nearest existing folder.

    None for a bucket.
    """
    if "://" in url and not url.startswith(("file://", "local://")):
        return None
    folder = Path(url.partition("://")[2] or url).expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free, existing
