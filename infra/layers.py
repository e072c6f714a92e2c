"""The values of one source of settings, with the names that the source has for its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

__all__ = ["DELIMITER", "PREFIX", "Layer", "field_of", "variable_of"]

# of variables in the environment
PREFIX = "SEGMINT_"
DELIMITER = "__"


@dataclass(frozen=True)
class Layer:
    """The nested values of one source.

    `spelling` is how the source writes a field, with {path} or {variable}.
    """

    spelling: str
    values: dict[str, Any]
    shown: bool = True  # whether an error may quote its values

    def holds(self, path: Sequence[str]) -> bool:
        """Whether this source has a value at `path`, or at a parent of it that is no table."""
        values: Any = self.values
        for part in path:
            if not isinstance(values, Mapping):
                return True
            if part not in values:
                return False
            values = values[part]
        return True

    def origin(self, path: Sequence[str]) -> str:
        """Return the name of the field `path` in this source."""
        return self.spelling.format(path=".".join(path), variable=variable_of(path))


def field_of(path: Sequence[str]) -> str:
    """Return the dotted name of a field, without the numbers of tables in lists."""
    return ".".join(part for part in path if not part.isdecimal())


def variable_of(path: Sequence[str]) -> str:
    """Return the variable in the environment that holds a field; it holds a list as a whole."""
    return PREFIX + DELIMITER.join(takewhile(lambda part: not part.isdecimal(), path)).upper()
