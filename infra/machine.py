"""The machine that a process runs on: its name, its free disk space, its GPU's memory."""

from __future__ import annotations

import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["dask_worker", "free_space", "machine_name", "resources"]


def dask_worker() -> Any | None:
    """The Dask worker that this thread works for; None outside one."""
    distributed = sys.modules.get("distributed")  # never imported for the sake of asking
    try:
        return distributed.get_worker() if distributed else None
    except ValueError:  # Dask is here, but this is no worker's thread
        return None


def machine_name() -> str:
    """The Dask worker's name, or the host's outside one."""
    worker = dask_worker()
    return socket.gethostname() if worker is None else str(worker.name)


def resources() -> dict[str, float]:
    """Bytes: free on the disk of the working directory; used and there on the GPU, once this
    process uses one.

    What cannot be found out is left out.
    """
    found: dict[str, float] = {}
    with suppress(OSError):
        found["disk_free_bytes"] = float(shutil.disk_usage(Path.cwd()).free)
    torch = sys.modules.get("torch")
    if (
        torch and torch.cuda.is_initialized()
    ):  # to ask sooner would take some hundred megabytes of the GPU
        with suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info()
            found |= {
                "gpu_memory_used_bytes": float(total - free),
                "gpu_memory_bytes": float(total),
            }
    return found


def free_space(url: str) -> tuple[int, Path] | None:
    """Bytes free where the folder `url` is or will be, and the folder there that tells;

    None for a bucket.
    """
    if "://" in url and not url.startswith(("file://", "local://")):
        return None
    folder = Path(url.partition("://")[2] or url).expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free, existing
