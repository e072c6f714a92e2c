"""A fuzzed reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """A reader: valid inputs to begin from, how to read one, and the errors it may raise.

    `prepare` fills an empty folder with what stands beside the input, and returns the inputs.
    `is_json`: the inputs are also changed as trees.
    """

    prepare: Callable[[Path], Iterable[bytes]]
    read: Callable[[Path, bytes], object]
    errors: tuple[type[Exception], ...]
    is_json: bool = False

    def attempt(self, folder: Path, data: bytes) -> None:
        """Read one input. Raises whatever is not the reader's own error."""
        with suppress(*self.errors):
            self.read(folder, data)
