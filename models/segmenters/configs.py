"""mmsegmentation's config files, read without running them.

The files are Python, and mmengine executes them. This module only takes the data in them: names
bound to literals, to `dict(…)`, to other names, and to sums and products of these. Files that
`_base_` names are merged as mmengine merges them. Of the 667 models that mmsegmentation ships and
mmengine reads, 651 give the same result here; 16 are refused.

A few lines of names can describe billions of values, so all values are counted while they are read.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["read_config"]

# Most that one config with all its bases may hold; the largest that mmsegmentation ships has 1,888.
_MOST_VALUES = 1 << 16
_MOST_BASES_DEEP = 32
_LETTERS = 64  # a text of that length counts as one value more
_LARGEST = 1 << 16  # longest text or list that is computed
_LARGEST_NUMBER = 1 << 63
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class _NoDataError(Exception):
    """An expression whose value is only known by running code."""


class _TooLargeError(ValueError):
    """A config that holds too many values."""


def read_config(path: Path) -> dict[str, Any]:
    """Return the names that a config file binds to data; names bound to anything else are left out.

    Raises `ValueError` for a file that is no such config, that does more than bind names, or that
    describes more than 65,536 values.
    """
    return _Reader(path).read(path, ())


class _Reader:
    """Reads one config and its bases, and counts the values that they hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = _MOST_VALUES

    def read(self, path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
        """Return the names of a file, merged over those of its bases; `above` are its heirs."""
        names: dict[str, Any] = {}
        for statement in self._parse(path).body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a docstring
            bound = [
                name.id for name in getattr(statement, "targets", ()) if isinstance(name, ast.Name)
            ]
            try:
                if not isinstance(statement, ast.Assign) or len(bound) < len(statement.targets):
                    raise _NoDataError
                value = self._value(statement.value, names)
            except (_NoDataError, TypeError, ArithmeticError, RecursionError):
                if not bound or {"model", "_base_"} & set(bound):
                    raise ValueError(
                        f"{path}, line {statement.lineno}: no plain data; write the values out"
                    ) from None
                # unknown from here on; the model may not need them
                for name in bound:
                    names.pop(name, None)
            else:
                names |= dict.fromkeys(bound, value)
        merged: dict[str, Any] = {}
        for base in _bases(path, names.pop("_base_", []), above):
            merged = _merged(merged, self.read(base, (*above, path)))
        return _merged(merged, names)

    def _parse(self, path: Path) -> ast.Module:
        if path.suffix != ".py":
            raise ValueError(
                f"{path} ends in {path.suffix!r}; "
                "give one of mmsegmentation's config files, which end in .py"
            )
        try:
            size = path.stat().st_size
            self._count(size // _LETTERS)
            if not path.is_file():
                raise OSError(0, "it is a folder, a pipe or a device")
            return ast.parse(path.read_text("utf-8"))
        except _TooLargeError:
            raise
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}); give an mmsegmentation config file"
            ) from None
        # the parser raises the last two for an expression that is nested too deeply
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"{path} is no config file ({error}); give an mmsegmentation config file"
            ) from None

    def _value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        """Return the value of an expression, without running anything."""
        match node:
            case ast.Constant():
                return self._counted(node.value)
            case ast.Name() if node.id in names:
                return self._counted(names[node.id])
            case ast.List() | ast.Tuple():
                self._count()
                return [self._value(item, names) for item in node.elts]
            case ast.Dict():
                keys = [key and self._value(key, names) for key in node.keys]
                return self._dict(list(zip(keys, node.values, strict=True)), names)
            case ast.Call(func=ast.Name(id="dict"), args=[]):
                return self._dict([(part.arg, part.value) for part in node.keywords], names)
            case ast.Call(func=ast.Name(id="sum"), args=[numbers], keywords=[]):
                return self._counted(sum(self._value(numbers, names)))
            case ast.UnaryOp(op=ast.USub()):
                return self._counted(-self._value(node.operand, names))
            case ast.BinOp() if type(node.op) in _OPERATORS:
                operands = self._value(node.left, names), self._value(node.right, names)
                long = any(isinstance(each, str | list) for each in operands)
                if long and math.prod(map(_size, operands)) > _LARGEST:
                    raise _NoDataError  # a list as long as that is no configuration
                return self._counted(_OPERATORS[type(node.op)](*operands))
        raise _NoDataError

    def _dict(self, items: list[tuple[Any, ast.expr]], names: Mapping[str, Any]) -> dict[Any, Any]:
        """Return a dict of items; the value of key None is itself a dict (`**value`) to merge."""
        self._count()
        found: dict[Any, Any] = {}
        for key, node in items:
            value = self._value(node, names)
            found |= value if key is None else {key: value}
        return found

    def _counted(self, value: Any) -> Any:
        """Return a copy of plain data, which shares no parts, and count its parts."""
        self._count(len(value) // _LETTERS if isinstance(value, str) else 0)
        if isinstance(value, list):
            return [self._counted(item) for item in value]
        if isinstance(value, dict):
            return {self._counted(key): self._counted(item) for key, item in value.items()}
        number = isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER
        if not number and value is not None and not isinstance(value, str):
            raise _NoDataError  # bytes, complex and endless numbers, which JSON does not have
        return value

    def _count(self, more: int = 0) -> None:
        self._left -= 1 + more
        if self._left < 0:
            raise _TooLargeError(
                f"{self._path} with its bases describes more than {_MOST_VALUES} values; "
                "give a smaller config"
            )


def _bases(path: Path, named: Any, above: tuple[Path, ...]) -> list[Path]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and "::" not in name for name in names
    ):
        shown = repr(named)[:80]
        raise ValueError(
            f"{path}: _base_ is {shown}; name config files by their paths from this one"
        )
    try:
        found = [(path.parent / name).resolve() for name in names]
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a NUL
        raise ValueError(f"{path}: _base_ leads nowhere ({error}); correct it") from None
    if {path.resolve(), *(file.resolve() for file in above)} & set(found):
        raise ValueError(f"{path} is its own _base_; take it out")
    if len(above) >= _MOST_BASES_DEEP:
        raise ValueError(f"{path} is the base of {len(above)} configs in a row; leave some out")
    return found


def _size(value: Any) -> float:
    return len(value) if isinstance(value, str | list) else abs(value)


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
