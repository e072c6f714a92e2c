"""docs/settings.md, generated from the settings model.

usage: python -m infra.settings.document > docs/settings.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infra.explain import section_of
from infra.settings.identity import in_identity
from infra.settings.settings import Settings

__all__ = ["document"]

_HEAD = """\
# Settings

Generated from the settings model by `python -m infra.settings.document > docs/settings.md`.

A setting is given as a flag (`--set plan.images=200`), an environment variable
(`SEGMINT_PLAN__IMAGES=200`) or a field of a TOML or YAML file (`images = 200` in the table `plan`).
Flags override the environment, and the environment overrides the file. Credentials come from the
environment alone.

On a worker, parameters of a run name no other store, folder or endpoint than the worker's
environment. Such a setting has to be the same there, or to lie in a folder or address that
`SEGMINT_ALLOWED` lists there (`SEGMINT_ALLOWED=/data,s3://bucket`).

Settings marked *identity* can change a sample. They are hashed into the identity of a run: a run is
resumed only under settings of the same identity. All other settings may change between two starts
of the same run.
"""
_COLUMNS = ("field", "type", "default", "identity", "description")
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "multiple of"}


def document() -> str:
    """Return docs/settings.md: one table per section, in Markdown."""
    return "\n".join([_HEAD, *_sections("", Settings)])


def _sections(path: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield a heading and a table for the model's own fields, then its sections."""
    fields = model.model_fields
    found = {name: section_of(field) for name, field in fields.items()}
    inner = {name: section for name, section in found.items() if section is not None}
    if path:
        yield f"## {path}\n\n{_text(model.__doc__)}\n"
    rows = [_row(path, name, field) for name, field in fields.items() if name not in inner]
    yield _table(rows)
    for name, section in inner.items():
        yield from _sections(f"{path}.{name}".lstrip("."), section)


def _row(path: str, name: str, field: FieldInfo) -> tuple[str, ...]:
    full = f"{path}.{name}".lstrip(".")
    default = field.get_default(call_default_factory=True)
    return (
        f"`{full}`",
        _type(field),
        "" if default is None or field.is_required() else f"`{_plain(default)}`",
        "yes" if in_identity(full) else "",
        _text(field.description),
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _type(field: FieldInfo) -> str:
    """Return the field's type with its bounds, such as `integer ≥ 1`."""
    bounds = [
        f"{sign} {_plain(getattr(each, attribute))}"
        for each in _metadata(field)
        for attribute, sign in _BOUNDS.items()
        if getattr(each, attribute, None) is not None
    ]
    text = " ".join([_name(field.annotation), ", ".join(bounds)]).strip()
    return text.replace(str(2**63), "2⁶³")


def _metadata(field: FieldInfo) -> Iterator[Any]:
    """Yield the constraints of a field, also those inside `X | None`."""
    yield from _flat(field.metadata)
    for option in get_args(field.annotation):
        yield from _flat(getattr(option, "__metadata__", ()))


def _flat(metadata: Any) -> Iterator[Any]:
    for each in metadata:
        yield from each.metadata if isinstance(each, FieldInfo) else (each,)


def _name(annotation: Any) -> str:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _name(arguments[0])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_name(each) for each in arguments if each is not type(None))
    if origin is dict:
        inner, _, rest = _name(arguments[1]).partition(" ")
        return f"table of {inner}s {rest}".rstrip()
    if origin is tuple:
        return f"list of {_name(arguments[0])}"
    return _NAMES[annotation]


_NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    Any: "value",
}


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _text(text: str | None) -> str:
    """Return a docstring as one line of a Markdown table."""
    return re.sub(r"([|*<])", r"\\\1", " ".join((text or "").split()))


if __name__ == "__main__":
    print(document(), end="")
