"""Sources of settings: flags, the environment and a file.

They are kept apart until they are merged, so that an error can name the source of a value.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pydantic_settings
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode

from infra.config_files import SettingsError, read_file
from infra.explain import explain
from infra.hidden import hide_all, refuse_written
from infra.layers import DELIMITER, PREFIX, Layer
from infra.parsing import parse_json

__all__ = [
    "ALLOWED",
    "SettingsError",
    "merge",
    "read_flat",
    "read_layers",
]

Model = TypeVar("Model", bound=BaseModel)

_FIELD = re.compile(r"[a-z_]*(\.[a-z_]+)*")
ALLOWED = "SEGMINT_ALLOWED"  # no setting: `infra.settings.places` reads it


class _Parsed(str):
    """A text inside JSON, which is a text even if it looks like a table."""


def _as_parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_parsed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_parsed(inner) for inner in value]
    return _Parsed(value) if isinstance(value, str) else value


class _Texts(EnvSettingsSource):
    """Values written as text, decoded by pydantic-settings' rules for the environment.

    Unknown names are kept.
    """

    def __init__(self, model: type[BaseSettings], texts: Mapping[str, str]) -> None:
        self._texts = texts
        super().__init__(
            model,
            case_sensitive=True,
            env_prefix="",
            env_nested_delimiter=DELIMITER,
            env_parse_none_str="null",
        )

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: None if text == "null" else text for name, text in self._texts.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Parse JSON as strictly as everywhere else. Its texts are not parsed once more."""
        if NoDecode in field.metadata:  # pydantic-settings asks only outside of sections
            return value
        return _as_parsed(parse_json(value))

    def __call__(self) -> dict[str, Any]:
        names = {name.split(DELIMITER)[0]: text for name, text in self._texts.items()}
        return super().__call__() | {
            n: text for n, text in names.items() if n not in self.settings_cls.model_fields
        }


def read_layers(
    model: type[BaseSettings], file: Path | None, flags: Sequence[str], values: Mapping[str, Any]
) -> list[Layer]:
    """Return all sources, the strongest first. Raises `SettingsError` for an unreadable one."""
    variables = {
        name[len(PREFIX) :].lower(): text
        for name, text in os.environ.items()
        if name.startswith(PREFIX) and name != ALLOWED
    }
    return [
        Layer("given as {path}", dict(values)),
        Layer("from --set {path}", _read_texts(model, dict(map(_split_flag, flags)), "--set")),
        Layer(
            "from {variable} in the environment",
            hide_all(_read_texts(model, variables, "environment")),
            shown=False,
        ),
        Layer(f"from {file}, {{path}}", read_file(file) if file else {}),
    ]


def read_flat(model: type[Model], file: Path | None, flags: Sequence[str]) -> Model:
    """Return a model without tables, read from flags and a file but not from the environment.

    Raises `SettingsError`.
    """
    layers = [
        Layer("from --set {path}", dict(map(_split_flag, flags))),
        Layer(f"from {file}, {{path}}", read_file(file) if file else {}),
    ]
    refuse_written(layers)
    try:
        return model.model_validate(merge(layers))
    except ValidationError as error:
        problem = explain(error, layers, model)
    raise SettingsError(problem)  # out here it has no context, which holds all values


def _split_flag(flag: str) -> tuple[str, str]:
    path, equals, text = flag.partition("=")
    if not equals or not path.strip():
        shown = repr(path) if _FIELD.fullmatch(path) else "with something else"
        raise SettingsError(
            f"--set {shown} is not FIELD=VALUE; write for instance --set plan.images=200"
        )
    return path.strip().replace(".", DELIMITER), text.strip()


def _read_texts(model: type[BaseSettings], texts: Mapping[str, str], origin: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = _decode(_Texts(model, texts)(), origin)
        return values
    except pydantic_settings.SettingsError as error:
        problem = str(error).partition(" from source")[0] + "; write a table or list as JSON"
    except RecursionError:
        problem = "a value is nested too deeply; no setting is nested at all"
    raise SettingsError(f"{origin}: {problem}")  # out here it has no context, which has the text


def _decode(value: Any, origin: str) -> Any:
    """Parse tables and lists that pydantic-settings left as text, where a field takes any value."""
    if isinstance(value, dict):
        return {name: _decode(inner, f"{origin} {name}") for name, inner in value.items()}
    if isinstance(value, list):
        return [_decode(inner, origin) for inner in value]
    if isinstance(value, _Parsed):
        return str(value)
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    with suppress(ValueError):
        return parse_json(value)
    raise SettingsError(f"{origin}: a value that begins with {value[0]!r} has to be JSON")


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return one nested dictionary: tables merged by field, other values from the strongest.

    Raises `SettingsError` for values that are nested too deeply to be copied.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        try:
            _fill(merged, layer.values)
        except RecursionError:
            where = layer.origin(("a table",))
            raise SettingsError(
                f"{where} is nested too deeply; write each setting as in docs/settings.md"
            ) from None
    return merged


def _fill(strong: dict[str, Any], weak: Mapping[str, Any]) -> None:
    for name, value in weak.items():
        if name not in strong:
            strong[name] = copy.deepcopy(value)
        elif isinstance(strong[name], dict) and isinstance(value, Mapping):
            _fill(strong[name], value)
