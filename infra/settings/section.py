"""What all sections of the settings share: their base class, value types and readers of text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from infra.hidden import Hidden

__all__ = [
    "BLOCK",
    "DNS_LABEL",
    "Count",
    "Section",
    "Share",
    "ShareOrAuto",
    "Versions",
    "booleans",
    "describe_defaults",
    "names",
    "tables",
]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"  # RFC 1123, as Kubernetes asks for
BLOCK = r"^[a-z0-9-]+$"  # Prefect's rule for names of blocks and their types


def describe_defaults(schema: dict[str, Any]) -> None:
    """Move the defaults of a JSON schema into the descriptions.

    Prefect's form would fill defaults in and send them, and they would then override the worker's
    environment.
    """
    for field in schema.get("properties", {}).values():
        value = field.pop("default", None)
        if isinstance(value, str | int | float):
            shown = json.dumps(value) if isinstance(value, bool) else value
            field["description"] += f" [{shown}]"


class Section(BaseModel):
    """Base class of a section: frozen, without unknown fields, described for Prefect's form."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        model_title_generator=lambda section: section.__name__.removesuffix("Settings"),
        json_schema_extra=describe_defaults,
    )


def booleans(value: Any) -> Any:
    """Return `value` with "true" and "false" as booleans, also inside tables.

    Flags and environment variables are text, and fsspec would take "false" for true.
    """
    if isinstance(value, Mapping):
        return {name: booleans(inner) for name, inner in value.items()}
    if isinstance(value, Hidden):
        return Hidden(booleans(value.get_secret_value()))
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return value


def names(value: Any) -> Any:
    """Return `car,tree` as a list, since flags and environment variables hold text."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def tables(value: Any) -> Any:
    """Refuse what is no list of tables, with an example of one."""
    if not isinstance(value, list | tuple):
        raise ValueError("give a list of tables, such as [{kind = 'clipseg', path = '/models/c'}]")
    return value


def _share_or_auto(value: Any) -> Any:
    if value == "auto":
        return value
    try:
        if 0 < float(value) <= 1:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ValueError("give a share over 0 and up to 1, or auto")


_Choice = float | Literal["auto"]
# one validator, so that a wrong value gives one error and not one per alternative
ShareOrAuto = Annotated[_Choice, PlainValidator(_share_or_auto, json_schema_input_type=_Choice)]


def _versions(value: Any) -> Any:
    if isinstance(value, str):
        value = int(value) if value.strip().isdecimal() else value.strip()
    if value in ("newest", "all") or (type(value) is int and value >= 1):
        return value
    given = names(value)
    texts = isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)
    if texts and given and all(given) and len(set(given)) == len(given):
        return tuple(given)
    raise ValueError("give newest, all, a number of at least 1, or names of versions, each once")


_Versions = Literal["newest", "all"] | int | tuple[str, ...]
Versions = Annotated[_Versions, BeforeValidator(_versions)]
