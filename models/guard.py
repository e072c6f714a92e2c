"""A guard around everything that builds a foreign model: nothing is unpickled, fetched or run.

A model's description is data, but the libraries that read it open what some of its values name:
mmengine unpickles files, also from an address, and builds any object that a YAML file asks for.
The readers of descriptions refuse such values (`models.segmenters.checks`, `models.generators`).
This guard is for those that they miss.

It is an audit hook: Python itself reports each of these actions to it, whichever library takes
them, and in whichever way. Hooks cannot be removed, so there is one, and it does nothing outside of
`guarded`. It sees the calling thread only, and no files that compiled code opens (safetensors).
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["GuardError", "guarded"]

# audit events (https://docs.python.org/3/library/audit_events.html), the prefix of each
_REFUSED = (
    "pickle.find_class",
    "socket.",
    "urllib.",
    "http.client.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pty.",
)
# what computers are asked for, by the standard library and by torch: cores, memory, randomness
_MACHINE = ("/proc", "/sys", "/dev/null", "/dev/urandom")

_readable: ContextVar[tuple[str, ...] | None] = ContextVar("readable", default=None)


class GuardError(RuntimeError):
    """Building a model tried what no model needs."""


@contextmanager
def guarded(*folders: Path) -> Iterator[None]:
    """Raise `GuardError` from whatever tries to unpickle, to reach a network or to run a program.

    Files are opened in `folders` only, and where Python and its packages are installed. A folder in
    a Hugging Face cache (models--*/snapshots/COMMIT) has links to the blobs beside the snapshots.
    """
    _install()
    roots = (root for folder in folders for root in _roots(Path(os.path.realpath(folder))))
    token = _readable.set((*_installed(), *roots))
    try:
        yield
    finally:
        _readable.reset(token)


def _roots(folder: Path) -> Iterator[str]:
    yield str(folder)
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            yield str(parent.parent / "blobs")


@cache
def _installed() -> tuple[str, ...]:
    named = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*map(sysconfig.get_path, named), str(Path(torch.__file__).parents[1])]
    return (*dict.fromkeys(map(os.path.realpath, folders)), *_MACHINE)


@cache
def _install() -> None:
    def hook(event: str, arguments: tuple[Any, ...], readable: Any = _readable) -> None:
        # the default keeps the variable while the interpreter ends and empties this module
        allowed = readable.get()
        if allowed is not None:
            _check(event, arguments, allowed)

    sys.addaudithook(hook)


def _check(event: str, arguments: tuple[Any, ...], allowed: tuple[str, ...]) -> None:
    if event.startswith(_REFUSED):
        raise GuardError(f"it led to {event} {_shown(arguments)}, which no model needs")
    if event == "open" and not isinstance(arguments[0], int):  # not an open file's number
        if arguments[2] & os.O_EXCL:
            return  # a new file, such as a temporary one, has nothing in it yet
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not any(path == folder or path.startswith(folder + os.sep) for folder in allowed):
            raise GuardError(f"it led to {path!r}, a file that is not the model's")


def _shown(arguments: tuple[Any, ...]) -> str:
    return repr([each for each in arguments if isinstance(each, str | bytes | tuple | list)])[:120]
