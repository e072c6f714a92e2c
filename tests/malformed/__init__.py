"""Malformed input of every kind that comes from outside: cases of what is tried and of what the
error must say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from testbed.inputs import file

__all__ = ["DEEP", "Attempt", "Case", "Cases", "file"]

DEEP = 100_000  # brackets, more than any reader can follow


# of a folder; a lambda that binds a loop's values by defaults fits no narrower type
Attempt = Callable[..., object]


class Case(NamedTuple):
    """An attempt, given a folder of its own; the error that it must raise; a pattern that the
    message must match.
    """

    attempt: Attempt
    error: type[Exception] | tuple[type[Exception], ...]
    words: str


Cases = Iterator[tuple[str, Case]]
