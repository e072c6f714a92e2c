"""Agreement of processes that know nothing of each other on one of the values that they propose.

Commit-adopt in rounds (Gafni 1998, "Round-by-round fault detectors"; rounds until one commits give
consensus), over nothing but files that are written once and whole, and listings that show them. No
lock that a killed process could keep, no clock, and no conditional write, which many S3 servers
ignore or do not check atomically.

<folder>/<value>                              a proposal, named by its SHA-256
<folder>/<round>.proposed.<value>.<who>       somebody goes into the round with it
<folder>/<round>.{agreed,open}.<value>.<who>  and saw no other proposal there, or did
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
import time

from infra.store.errors import StoreError
from infra.store.store import Store

__all__ = ["agree"]

LISTED_SECONDS = (
    60.0  # within which a listing must show what was written; S3, Ceph and folders show it at once
)
_SAYING = re.compile(r"(\d+)\.(proposed|agreed|open)\.([0-9a-f]{64})\.[0-9a-f]+")
_Sayings = set[tuple[str, str]]  # word and value


def agree(store: Store, folder: str, proposal: bytes) -> bytes:
    """Return the proposal that wins in `folder`: the same one to all who ever ask, whatever they
    propose.

    Of two processes whose listings hold what each wrote itself, the later listing holds the other's
    as well. So no round has two values that are `agreed`; and where one process sees nothing else,
    and returns, all others of that round see it `agreed` and go on with it. Processes may stop for
    ever, or sleep and wake, at any line. One alone is done in the first round; of several proposals
    the least soon stands alone. Raises `StoreError` if the store does not list what it holds.
    """
    value, who = hashlib.sha256(proposal).hexdigest(), secrets.token_hex(8)
    store.write_bytes(f"{folder}/{value}", proposal)
    for number in itertools.count():
        said = _say(store, folder, number, f"proposed.{value}.{who}")
        vote = "agreed" if _values(said, "proposed") == {value} else "open"
        said = _say(store, folder, number, f"{vote}.{value}.{who}")
        agreed = _values(said, "agreed")
        if agreed == {value} and not _values(said, "open"):
            break
        value = min(agreed or _values(said, "proposed"))
    won = store.read_bytes(f"{folder}/{value}")
    if hashlib.sha256(won).hexdigest() != value:
        raise StoreError(
            f"{store.url}/{folder}/{value} is not what was proposed; restore it from a copy"
        )
    return won


def _say(store: Store, folder: str, number: int, saying: str) -> _Sayings:
    """Say it in that round, and return all that is said there by then, once this is among it."""
    name = f"{number:03d}.{saying}"
    store.write_bytes(f"{folder}/{name}", b"")
    deadline = time.monotonic() + LISTED_SECONDS
    while name not in (names := store.list(folder)):
        if time.monotonic() > deadline:
            raise StoreError(
                f"{store.url}/{folder} does not list {name} {LISTED_SECONDS:g} s after it was written, so nothing can "
                "be agreed on there; set a store url whose listings are up to date"
            )
        time.sleep(0.1)
    found = [each.groups() for each in map(_SAYING.fullmatch, names) if each]
    return {(word, value) for of, word, value in found if int(of) == number}


def _values(said: _Sayings, word: str) -> set[str]:
    return {value for each, value in said if each == word}
