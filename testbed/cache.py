"""What the servers of tests need: downloaded once, below out/cache, by the first process."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["cache_folder", "made_once", "packages"]


def cache_folder(name: str) -> Path:
    """Return the folder of what has this name and version."""
    return Path(__file__).parent.parent / "out" / "cache" / name


def made_once(folder: Path, make: Callable[[], None]) -> None:
    """Fill `folder` by `make`, unless it is complete. Other processes wait meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            make()
            (folder / "complete").touch()


def packages(folder: Path, requirement: str) -> Path:
    """Return the programs of an environment below `folder` with this package from PyPI."""
    environment = folder / "venv"

    def make() -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", requirement], check=True)

    made_once(folder, make)
    return environment / "bin"
