"""The machine that a process runs on: its name, its free disk space, its GPU's memory."""

from __future__ import annotations

import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["free_space", "machine_name", "resources"]


def machine_name() -> str:
    """The Dask worker's name, or the host's outside one."""
    distributed = sys.modules.get("distributed")  # never imported for the sake of a name
    try:
        return str(distributed.get_worker().name) if distributed else socket.gethostname()
    except ValueError:  # this is no Dask worker
        return socket.gethostname()


def resources() -> dict[str, float]:
    """Bytes: free on the disk of the working directory; used and there on the GPU, once this process uses one.

    What cannot be found out is left out.
    """
    found: dict[str, float] = {}
    with suppress(OSError):
        found["disk_free_bytes"] = float(shutil.disk_usage(Path.cwd()).free)
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():  # to ask sooner would take some hundred megabytes of the GPU
        with suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info()
            found |= {"gpu_memory_used_bytes": float(total - free), "gpu_memory_bytes": float(total)}
    return found


def free_space(url: str) -> tuple[int, Path] | None:
    """Bytes free where the folder `url` is or will be, and the folder there that tells; None for a bucket."""
    if "://" in url and not url.startswith(("file://", "local://")):
        return None
    folder = Path(url.partition("://")[2] or url).expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free, existing
