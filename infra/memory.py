"""The memory that this process may still take."""

from __future__ import annotations

import psutil
from distributed.system import MEMORY_LIMIT

__all__ = ["available_memory"]


def available_memory() -> int:
    """Return the bytes that are free on this machine, or that a container leaves of them."""
    free: int = psutil.virtual_memory().available
    return min(free, MEMORY_LIMIT)  # Dask's reading of control groups and of ulimit
