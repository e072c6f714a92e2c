"""Files that carry their own checksum, so that truncated or changed content is detected.

A JSON file has the checksum as its last key, `seal`. Parquet and safetensors files have it in their
metadata, in a field that is blank while the checksum is computed. A seal detects damage, not
intent: everyone who may write to the store can compute it.

Markers, manifests and publication entries are sealed JSON with a `format` (`seal_record`). A later
format has to keep the seal as it is: then an older segmint can tell it from damage.
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
from infra.store.errors import FormatError

__all__ = [
    "BLANK",
    "FORMAT",
    "Count",
    "FileSum",
    "Sha256",
    "check_tensors",
    "plain",
    "seal",
    "seal_record",
    "seal_tensors",
    "stamp",
    "stamped",
    "unseal",
    "unseal_record",
]

FORMAT = 1  # of markers, manifests and publication entries
Count = Annotated[int, Field(strict=True, ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
BLANK = b"0" * 64  # placeholder of a checksum


@dataclass(frozen=True)
class FileSum:
    """Size in bytes and SHA-256 (hexadecimal) of a file; for a shard object see `Encoded.sum`."""

    size: Count
    sha256: Sha256

    @classmethod
    def of(cls, data: bytes) -> FileSum:
        """Return size and SHA-256 of `data`."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


def seal(value: Mapping[str, Any]) -> bytes:
    """Return `value` as JSON whose last key, `seal`, is the SHA-256 of the text before it.

    Raises `ValueError` for NaN and infinity.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=plain)
    body = text[:-1].encode()
    return body + _tail(body)


def unseal(data: bytes) -> dict[str, Any]:
    """Return the value that `seal` was given. Raises `ValueError` if any byte has changed."""
    body = data[: -len(_tail(b""))]
    if data != body + _tail(body):
        raise ValueError("the seal does not fit the content")
    value: dict[str, Any] = parse_json(data)
    del value["seal"]
    return value


def seal_record(value: Mapping[str, Any]) -> bytes:
    """Return `value` with the current `format` as sealed JSON."""
    return seal({**value, "format": FORMAT})


def unseal_record(data: bytes) -> dict[str, Any]:
    """Return the value that `seal_record` was given.

    Raises `ValueError` if any byte has changed, and `FormatError` for an intact file of another
    format or without one; the caller adds the path to its message.
    """
    value = unseal(data)
    if "format" not in value:
        raise FormatError(
            f"has no format, this version of segmint reads format {FORMAT}; "
            "a segmint from before the first release wrote it: delete it and write it again"
        )
    found = value.pop("format")
    if type(found) is not int or found != FORMAT:  # True == 1
        raise FormatError(
            f"has format {found!r:.40}, this version of segmint reads format {FORMAT}; "
            "use a newer segmint"
        )
    return value


def _tail(body: bytes) -> bytes:
    return b', "seal": "%s"}' % hashlib.sha256(body).hexdigest().encode()


def plain(value: Any) -> Any:
    """Return a numpy number or array as values that JSON has."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def stamp(data: bytes) -> bytes:
    """Return `data` with its SHA-256 in place of the last `BLANK`."""
    before, _, after = data.rpartition(BLANK)
    return before + hashlib.sha256(data).hexdigest().encode() + after


def stamped(data: bytes, seal: bytes) -> bool:
    """Whether `seal`, a part of `data`, is what `stamp` wrote and no other byte has changed."""
    at = data.rfind(seal)
    rest = memoryview(data)
    digest = hashlib.sha256(rest[:at])
    digest.update(BLANK)
    digest.update(rest[at + len(BLANK) :])
    return digest.hexdigest().encode() == seal


def seal_tensors(data: bytes) -> bytes:
    """Return a safetensors file with a seal in its metadata. The result is a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size]) | {"__metadata__": {"seal": BLANK.decode()}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return stamp(len(text).to_bytes(8, "little") + text + data[8 + size :])


def check_tensors(data: bytes) -> None:
    """Raise `ValueError` unless `data` is exactly what `seal_tensors` returned."""
    size = int.from_bytes(data[:8], "little")
    header = checked(parse_json(data[8 : 8 + size]), dict[str, dict[str, Any]])
    seal = header.get("__metadata__", {}).get("seal")
    if not isinstance(seal, str) or not stamped(data, seal.encode()):
        raise ValueError("the seal does not fit the content")
