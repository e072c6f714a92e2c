"""The memory that this process may still take."""

from __future__ import annotations

import psutil
from distributed.system import MEMORY_LIMIT

__all__ = ["available_memory", "memory_limit"]


def available_memory() -> int:
    """Return the bytes that are free on this machine, or that a container leaves of them."""
    free: int = psutil.virtual_memory().available
    return min(free, MEMORY_LIMIT)  # Dask's reading of control groups and of ulimit


def memory_limit() -> int | None:
    """Return the bytes that a container or ulimit leaves this process; None for all there are."""
    return MEMORY_LIMIT if psutil.virtual_memory().total > MEMORY_LIMIT else None
