"""Sources of settings: flags, the environment and a file.

They are kept apart until they are merged, so that an error can name the source of a value.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic_settings
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource

from infra.config_files import SettingsError, read_file
from infra.parsing import parse_json

__all__ = ["Layer", "SettingsError", "explain", "merge", "nearest", "read_flat", "read_layers"]

Model = TypeVar("Model", bound=BaseModel)

PREFIX = "SEGMINT_"
DELIMITER = "__"


@dataclass(frozen=True)
class Layer:
    """The nested values of one source.

    `spelling` is how the source writes a field, with {path} or {variable}.
    """

    spelling: str
    values: dict[str, Any]
    secret: bool = False  # may hold credentials

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
        return self.spelling.format(
            path=".".join(path), variable=PREFIX + DELIMITER.join(path).upper()
        )


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
        """Parse JSON as strictly as everywhere else."""
        return parse_json(value)

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
        if name.startswith(PREFIX)
    }
    return [
        Layer("given as {path}", dict(values)),
        Layer("from --set {path}", _read_texts(model, dict(map(_split_flag, flags)), "--set")),
        Layer(
            "from {variable} in the environment",
            _read_texts(model, variables, "environment"),
            secret=True,
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
    try:
        return model.model_validate(merge(layers))
    except ValidationError as error:
        raise SettingsError(explain(error, layers, model)) from None


def _split_flag(flag: str) -> tuple[str, str]:
    path, equals, text = flag.partition("=")
    if not equals or not path.strip():
        raise SettingsError(
            f"--set {path!r} is not FIELD=VALUE; write for instance --set plan.images=200"
        )
    return path.strip().replace(".", DELIMITER), text.strip()


def _read_texts(model: type[BaseSettings], texts: Mapping[str, str], origin: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = _decode(_Texts(model, texts)(), origin)
    except pydantic_settings.SettingsError as error:
        # without the cause, which quotes the text and so may show a credential
        problem = str(error).partition(" from source")[0]
        raise SettingsError(f"{origin}: {problem}; write a table or list as JSON") from None
    except RecursionError:
        raise SettingsError(
            f"{origin}: a value is nested too deeply; no setting is nested at all"
        ) from None
    return values


def _decode(value: Any, origin: str) -> Any:
    """Parse tables and lists that pydantic-settings left as text, where a field takes any value."""
    if isinstance(value, dict):
        return {name: _decode(inner, f"{origin} {name}") for name, inner in value.items()}
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    try:
        return parse_json(value)
    except ValueError:  # the error would quote the text
        raise SettingsError(
            f"{origin}: a value that begins with {value[0]!r} has to be JSON"
        ) from None


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


def explain(error: ValidationError, layers: Sequence[Layer], model: type[BaseModel]) -> str:
    """Return one line per error: field, value (not the store's), source and remedy."""
    return "\n".join(_explain_one(line, layers, model) for line in error.errors(include_url=False))


def _explain_one(line: ErrorDetails, layers: Sequence[Layer], model: type[BaseModel]) -> str:
    path = list(map(str, line["loc"]))
    field = ".".join(path)
    origin = next((layer.origin(path) for layer in layers if layer.holds(path)), "the default")
    fields = dict(_fields(model))
    if line["type"] == "extra_forbidden":
        siblings = [name for name in fields if name.rpartition(".")[0] == field.rpartition(".")[0]]
        return f"unknown setting {field!r} ({origin}): {nearest(field, siblings, fields)}"
    # values of the store may be credentials; tables are too long to help
    hidden = path[0] == "store" or isinstance(line["input"], Mapping)
    value = "" if hidden else f" = {line['input']!r}"
    remedy = line["msg"].removeprefix("Value error, ")
    if line["type"] == "string_pattern_mismatch":
        remedy = f"it should be: {fields[field].description}"
    return f"setting {field}{value} ({origin}): {remedy}"


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")


def nearest(name: str, valid: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """Return a remedy for an unknown `name`.

    It suggests the closest of `valid`, else the one of `elsewhere` with the closest last part, else
    it lists `valid`.
    """
    valid = list(valid)
    for choices in (valid, list(elsewhere)):
        last = {choice.rpartition(".")[2].lower(): choice for choice in reversed(choices)}
        if close := difflib.get_close_matches(name.rpartition(".")[2].lower(), last, n=1):
            return f"did you mean {last[close[0]]!r}?"
    return f"valid names are {', '.join(valid)}"
