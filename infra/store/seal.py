"""JSON that carries its own checksum: what was cut off or changed is not taken for a marker or a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.store.store import plain

__all__ = ["FileSum", "seal", "unseal"]


@dataclass(frozen=True)
class FileSum:
    """Size in bytes and SHA-256 (hexadecimal) of a file; for a shard object see `Encoded.sum`."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> FileSum:
        """Sum a whole file."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


def seal(value: Mapping[str, Any]) -> bytes:
    """Return `value` as JSON with a last key `seal`, the SHA-256 of all the text before it."""
    body = json.dumps(value, sort_keys=True, ensure_ascii=False, default=plain)[:-1].encode()
    return body + _tail(body)


def unseal(data: bytes) -> dict[str, Any]:
    """Return the value that `seal` was given, ValueError if a byte of it changed."""
    body = data[: -len(_tail(b""))]
    if data != body + _tail(body):
        raise ValueError("the seal does not fit the content")
    value: dict[str, Any] = json.loads(data)
    del value["seal"]
    return value


def _tail(body: bytes) -> bytes:
    return b', "seal": "%s"}' % hashlib.sha256(body).hexdigest().encode()
