"""Files that carry their own checksum: what was cut off or changed is not taken for what was
written.

JSON has it as its last key; Parquet and safetensors in a place of their metadata that is blank when
the sum is taken. A seal tells of damage, not of intent: whoever may write to the store can seal
anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from infra.parsing import checked, parse_json

__all__ = [
    "BLANK",
    "Count",
    "FileSum",
    "Sha256",
    "check_tensors",
    "plain",
    "seal",
    "seal_tensors",
    "stamp",
    "stamped",
    "unseal",
]

Count = Annotated[int, Field(strict=True, ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
BLANK = b"0" * 64  # where a stamp goes


@dataclass(frozen=True)
class FileSum:
    """Size in bytes and SHA-256 (hexadecimal) of a file; for a shard object see `Encoded.sum`."""

    size: Count
    sha256: Sha256

    @classmethod
    def of(cls, data: bytes) -> FileSum:
        """Sum a whole file."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


def seal(value: Mapping[str, Any]) -> bytes:
    """Return `value` as JSON with a last key `seal`, the SHA-256 of all the text before it;

    ValueError for NaN.
    """
    body = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=plain)[
        :-1
    ].encode()
    return body + _tail(body)


def unseal(data: bytes) -> dict[str, Any]:
    """Return the value that `seal` was given, ValueError if a byte of it changed."""
    body = data[: -len(_tail(b""))]
    if data != body + _tail(body):
        raise ValueError("the seal does not fit the content")
    value: dict[str, Any] = parse_json(data)
    del value["seal"]
    return value


def _tail(body: bytes) -> bytes:
    return b', "seal": "%s"}' % hashlib.sha256(body).hexdigest().encode()


def plain(value: Any) -> Any:
    """Return a numpy number or array as JSON can hold it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def stamp(data: bytes) -> bytes:
    """Return `data` with the SHA-256 of all of it where its last `BLANK` was."""
    before, _, after = data.rpartition(BLANK)
    return before + hashlib.sha256(data).hexdigest().encode() + after


def stamped(data: bytes, seal: bytes) -> bool:
    """Whether `seal`, found in `data`, is what `stamp` put there and every other byte is as it was
    then.
    """
    at, rest = data.rfind(seal), memoryview(data)
    digest = hashlib.sha256(rest[:at])
    digest.update(BLANK)
    digest.update(rest[at + len(BLANK) :])
    return digest.hexdigest().encode() == seal


def seal_tensors(data: bytes) -> bytes:
    """Return a safetensors file with a seal in its metadata, so that it is a safetensors file
    still.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size]) | {"__metadata__": {"seal": BLANK.decode()}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return stamp(len(text).to_bytes(8, "little") + text + data[8 + size :])


def check_tensors(data: bytes) -> None:
    """Raise ValueError unless these are the bytes that `seal_tensors` gave."""
    size = int.from_bytes(data[:8], "little")
    header = checked(parse_json(data[8 : 8 + size]), dict[str, dict[str, Any]])
    seal = header.get("__metadata__", {}).get("seal")
    if not isinstance(seal, str) or not stamped(data, seal.encode()):
        raise ValueError("the seal does not fit the content")
