"""Configuration files in TOML or YAML, read as nested dictionaries."""

from __future__ import annotations

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
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise TypeError("it does not hold named values")
    except Exception as error:  # the two parsers have different errors
        kind = "TOML" if file.suffix == ".toml" else "YAML"
        raise SettingsError(
            f"configuration file {file} is not a table of settings in {kind}: {error}; correct it"
        ) from None
    return values


class _PlainLoader(yaml.SafeLoader):
    """YAML restricted to what TOML and JSON have: no objects, no duplicate keys, no aliases.

    A few lines of aliases can expand to billions of values.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicate keys."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError("a table has a key twice", node.start_mark)
        return mapping


def _read_yaml(text: str) -> Any:
    values = yaml.load(text, _PlainLoader)
    return {} if values is None else values


_READERS: dict[str, Any] = {".toml": tomllib.loads, ".yaml": _read_yaml, ".yml": _read_yaml}
