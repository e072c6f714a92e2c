"""Strict reading of JSON from outside: ambiguous and too deeply nested texts are refused.

Errors are `ValueError`s that say what is wrong and where. They quote no text from the file, which
may be a credential. The caller adds the file's name and the remedy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

__all__ = ["check_json", "checked", "parse_json"]

_SHOWN = 3  # faults of one value that a message lists
_LONGEST = 60  # characters of a wrong number in a message


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text in UTF-8, with or without byte order mark.

    Raises `ValueError`, also for duplicate keys, NaN, Infinity and numbers that overflow.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
        )
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        problem = str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    raise ValueError(problem)  # here, so that it is not linked to an error that holds the text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:_LONGEST]} is not a finite number")
    return value


def checked(value: Any, shape: Any) -> Any:
    """Return `value` as an instance of `shape`, such as a pydantic model or dataclass.

    Raises `ValueError`, naming the fields.
    """
    return _reported(lambda: _adapter(shape).validate_python(value))


def check_json(value: Any, shape: Any) -> None:
    """Raise `ValueError`, naming the fields, unless a JSON value fits `shape` as it is.

    Nothing is converted: "1" is no number, so whoever checks a value may use it as it was.
    """
    _reported(lambda: _adapter(shape).validate_json(json.dumps(value), strict=True))


def _reported(validate: Callable[[], Any]) -> Any:
    try:
        return validate()
    except ValidationError as error:
        faults = [_describe(fault) for fault in error.errors(include_url=False)[:_SHOWN]]
        more = f" and {error.error_count() - _SHOWN} more" if error.error_count() > _SHOWN else ""
    raise ValueError("; ".join(faults) + more)  # out here it has no context, which has the value


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _describe(fault: Any) -> str:
    field = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{field} is missing"
    return f"{field or 'it'} is {_kind(fault['input'])}: {fault['msg']}"


def _kind(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)[:_LONGEST]
    if isinstance(value, (str, bytes)):
        return f"a text of {len(value)} characters"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
