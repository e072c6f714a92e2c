"""Mutation of JSON as a tree. Random bytes rarely leave it readable: they test the parser only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

__all__ = ["mutated_json"]

# values that readers have to refuse, or to bound
_HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    255,
    1 << 31,
    1 << 40,
    1 << 63,
    10**400,
    0.5,
    1e308,
    "",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "\x1b[2J",
    "<script>",
    "9" * 5000,
    "object",
    "0" * 64,
    [],
    {},
    [[[[]]]],
    {"": {}},
)

Place = tuple[Any, Any]  # a container, and a key or index of it


def mutated_json(data: bytes, random: Random) -> bytes | None:
    """Return the JSON of `data` with one to three changes in its tree; None if it is no JSON."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return None
    for _ in range(random.randint(1, 3)):
        container, key = random.choice([*_places(root)])
        random.choice(_CHANGES)(container, key, random)
        if not root:
            return None
    return json.dumps(root[0]).encode()


def _places(container: Any) -> Iterator[Place]:
    keys = list(container) if isinstance(container, dict) else range(len(container))
    for key in keys:
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _places(container[key])


def _replace(container: Any, key: Any, random: Random) -> None:
    container[key] = json.loads(json.dumps(random.choice(_HOSTILE)))


def _remove(container: Any, key: Any, random: Random) -> None:
    del container[key]


def _wrap(container: Any, key: Any, random: Random) -> None:
    container[key] = random.choice([[container[key]], {"a": container[key]}, str(container[key])])


def _move(container: Any, key: Any, random: Random) -> None:
    """Give the value another key, or repeat it in a list."""
    if isinstance(container, dict):
        container[str(random.choice(_HOSTILE))] = container.pop(key)
    else:
        container += container[key : key + 1] * random.randint(1, 100)


_CHANGES: tuple[Callable[[Any, Any, Random], None], ...] = (
    _replace,
    _replace,
    _remove,
    _wrap,
    _move,
)
