"""Configuration files in TOML or YAML, read as nested dictionaries.

An error gives the position and quotes nothing of the file, which may hold a credential.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

__all__ = ["SettingsError", "read_file"]

# bytes; all settings with a line of explanation each take 13 kB, and 32 kB of dots are read in 2 s
_LARGEST = 1 << 15


class SettingsError(ValueError):
    """A setting is unknown, wrong or in conflict. The message holds no credential."""


def read_file(file: Path) -> dict[str, Any]:
    """Return the values of a file. Raises `SettingsError` if it cannot be used."""
    if not file.is_file():
        raise SettingsError(f"there is no configuration file {file}; give a .toml or .yaml file")
    if file.suffix not in _READERS:
        raise SettingsError(
            f"configuration file {file} ends in {file.suffix!r}; "
            "give a file that ends in .toml or .yaml"
        )
    if (size := file.stat().st_size) > _LARGEST:
        raise SettingsError(
            f"configuration file {file} has {size} bytes, more than {_LARGEST}; "
            "give a file of settings"
        )
    try:
        values = _READERS[file.suffix](file.read_bytes().decode("utf-8-sig"))
        if isinstance(values, dict) and all(isinstance(name, str) for name in values):
            return values
        problem = "it does not hold named values"
    except Exception as error:  # the two parsers have different errors
        problem = _why(error)
    kind = "TOML" if file.suffix == ".toml" else "YAML"
    raise SettingsError(  # out here it has no context, which holds the text
        f"configuration file {file} is not a table of settings in {kind}: {problem}; correct it"
    )


def _why(error: Exception) -> str:
    """Return what a parser found and where, without its own words, which quote the file."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position} is not allowed in YAML"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {_problem(error)}"
    place = _TOML_PLACE.search(str(error))
    return f"{place[1]}: {_UNREADABLE}" if place else _UNREADABLE


def _problem(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, _RefusedError):
        return str(error.problem)
    if isinstance(error, yaml.constructor.ConstructorError):
        return "its constructor is not allowed; write a plain value"
    return _UNREADABLE


class _RefusedError(yaml.MarkedYAMLError):
    """YAML that TOML and JSON have no counterpart of. `problem` is our own text."""


_UNREADABLE = "it cannot be read"
# how tomllib's messages end
_TOML_PLACE = re.compile(r"\(at (line \d+, column \d+|end of document)\)$")


class _PlainLoader(yaml.SafeLoader):
    """YAML restricted to what TOML and JSON have: no objects, no duplicate keys, no aliases.

    A few lines of aliases can expand to billions of values.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            problem = "an alias (*name); write the value out"
            raise _RefusedError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicate keys."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise _RefusedError(problem="a table has a key twice", problem_mark=node.start_mark)
        return mapping

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Give the position of a value, such as a date of no calendar."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):
            problem = "a value that cannot be read; write it in quotes"
            raise _RefusedError(problem=problem, problem_mark=node.start_mark) from None


def _read_yaml(text: str) -> Any:
    values = yaml.load(text, _PlainLoader)
    return {} if values is None else values


_READERS: dict[str, Any] = {".toml": tomllib.loads, ".yaml": _read_yaml, ".yml": _read_yaml}
