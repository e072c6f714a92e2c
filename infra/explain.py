"""Errors of settings: which field is wrong, where its value came from, and what to write."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from infra.hidden import shown_names
from infra.layers import Layer, field_of

__all__ = ["explain", "fields_of", "nearest", "section_of"]

# Texts that an error may quote. Others may be a password, or the text of a wrong file.
_SHOWN_TEXTS = {"name", "compute.kubernetes.memory", "compute.runner", "generator.device"}


def explain(error: ValidationError, layers: Sequence[Layer], model: type[BaseModel]) -> str:
    """Return one line per error: field, value if it can be no credential, source and remedy."""
    return "\n".join(_explain_one(line, layers, model) for line in error.errors(include_url=False))


def _explain_one(line: ErrorDetails, layers: Sequence[Layer], model: type[BaseModel]) -> str:
    path = list(map(str, line["loc"]))
    layer = next((layer for layer in layers if layer.holds(path)), None)
    path = shown_names(path)
    field = ".".join(path)
    origin = layer.origin(path) if layer else "the default"
    fields = dict(fields_of(model))
    known = field_of(path)
    if line["type"] == "extra_forbidden":
        siblings = [name for name in fields if name.rpartition(".")[0] == known.rpartition(".")[0]]
        return f"unknown setting {field!r} ({origin}): {nearest(field, siblings, fields)}"
    from_open_source = layer is None or layer.shown
    shown = from_open_source and _may_be_shown(field, fields.get(known), line["input"])
    value = f" = {line['input']!r}" if shown else ""
    remedy = line["msg"].removeprefix("Value error, ")
    if line["type"] == "string_pattern_mismatch":
        remedy = f"it should be: {fields[known].description}"
    return f"setting {field}{value} ({origin}): {remedy}"


def _may_be_shown(field: str, info: FieldInfo | None, value: Any) -> bool:
    """Whether an error may quote a wrong value: numbers, and texts given for anything but text."""
    if field.startswith("store.") or not isinstance(value, (str, int, float, type(None))):
        return False
    takes_text = info is not None and info.annotation in (str, str | None)
    return field in _SHOWN_TEXTS or not (takes_text and isinstance(value, str))


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted name of every section and field, with the field.

    A list of tables is a section whose fields are those of each table.
    """
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if (section := section_of(field)) is not None:
            yield from fields_of(section, f"{prefix}{name}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section or a list of tables, else None."""
    for option in (field.annotation, *get_args(field.annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


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
