"""Agreement of independent processes on one of the values that they propose.

Commit-adopt in rounds (Gafni 1998, "Round-by-round fault detectors"; rounds until one commits give
consensus). It needs only files that are written once and whole, and listings that show them. There
is no lock that a killed process could keep, no clock, and no conditional write, which many S3
servers ignore or do not check atomically.

<folder>/<value>                              a proposal, named by its SHA-256
<folder>/<round>.proposed.<value>.<who>       a process enters the round with this value
<folder>/<round>.{agreed,open}.<value>.<who>  it saw no other value proposed there (agreed), or did
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import secrets
import time

from infra.store.errors import StoreError
from infra.store.store import Store

__all__ = ["agree", "back_off"]

# A listing has to show what was written within this time. S3, Ceph and folders show it at once.
LISTED_SECONDS = 60.0
_STATEMENT = re.compile(r"(\d+)\.(proposed|agreed|open)\.([0-9a-f]{64})\.[0-9a-f]+")
_Statements = set[tuple[str, str]]  # word and value


def agree(store: Store, folder: str, proposal: bytes) -> bytes:
    """Return the winning proposal in `folder`: the same one for every caller.

    Of two processes whose listings hold their own statements, the one that lists later also sees
    the other's statement. So no round has two values that are `agreed`. If one process sees nothing
    else and returns, all others of that round see its value `agreed` and continue with it.
    Processes may stop for ever, or pause, at any line. A single process needs one round. If several
    values are proposed, processes continue with the smallest, which soon is the only one. Raises
    `StoreError` if the store does not list what it holds.
    """
    value = hashlib.sha256(proposal).hexdigest()
    who = secrets.token_hex(8)
    store.write_bytes(f"{folder}/{value}", proposal)
    for number in itertools.count():
        stated = _state(store, folder, number, f"proposed.{value}.{who}")
        vote = "agreed" if _values(stated, "proposed") == {value} else "open"
        stated = _state(store, folder, number, f"{vote}.{value}.{who}")
        agreed = _values(stated, "agreed")
        if agreed == {value} and not _values(stated, "open"):
            break
        value = min(agreed or _values(stated, "proposed"))
    won = store.read_bytes(f"{folder}/{value}")
    if hashlib.sha256(won).hexdigest() != value:
        raise StoreError(
            f"{store.url}/{folder}/{value} is not what was proposed; restore it from a copy"
        )
    return won


def _state(store: Store, folder: str, number: int, statement: str) -> _Statements:
    """Write a statement of that round; return all of the round once this one is among them."""
    name = f"{number:03d}.{statement}"
    store.write_bytes(f"{folder}/{name}", b"")
    deadline = time.monotonic() + LISTED_SECONDS
    while name not in (names := store.list(folder)):
        if time.monotonic() > deadline:
            raise StoreError(
                f"{store.url}/{folder} does not list {name} {LISTED_SECONDS:g} s after it was "
                "written, so nothing can be agreed on there; set a store url whose listings are "
                "up to date"
            )
        time.sleep(0.1)
    found = [each.groups() for each in map(_STATEMENT.fullmatch, names) if each]
    return {(word, value) for of, word, value in found if int(of) == number}


def _values(stated: _Statements, word: str) -> set[str]:
    return {value for each, value in stated if each == word}


def back_off(begun: float) -> None:
    """Wait about as long as the round that began then (`time.monotonic`), by chance more or less.

    Processes that do not meet again need fewer rounds.
    """
    time.sleep(random.uniform(0, 2) * (time.monotonic() - begun))
