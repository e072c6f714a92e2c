"""Faults: reading what can be read, and noting what cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from infra.store import StoreError

__all__ = ["Faults"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Faults:
    """Collects what is wrong with one entry while its parts are read."""

    found: list[str] = field(default_factory=list)

    def attempt(self, read: Callable[P, T], *args: P.args, **options: P.kwargs) -> T | None:
        """Return what `read` returns; None, with the error noted, if that cannot be read."""
        try:
            return read(*args, **options)
        except (StoreError, OSError) as error:
            self.found.append(str(error))
            return None
