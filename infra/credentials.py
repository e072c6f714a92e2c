"""Credentials come from the environment alone: hiding them, and refusing them elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra.sources import Layer, SettingsError

__all__ = ["public", "refuse_written"]

# Options of fsspec and botocore that are secrets or belong to one: key, aws_secret_access_key,
# session_token, …
_SECRET = re.compile(
    r"key|secret|token|password|passwd|credential|signature|connection_string", re.IGNORECASE
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


def public(value: Any) -> Any:
    """Return `value` without secret keys, and without user and password in URLs."""
    if isinstance(value, Mapping):
        return {
            name: public(inner) for name, inner in value.items() if not _SECRET.search(str(name))
        }
    if isinstance(value, (list, tuple)):
        return [public(inner) for inner in value]
    return _USER_INFO.sub("", value) if isinstance(value, str) else value


def refuse_written(layers: Sequence[Layer]) -> None:
    """Raise `SettingsError` if the store's settings have a credential from a file or a flag."""
    for layer in layers:
        store = layer.values.get("store")
        if not layer.secret and isinstance(store, Mapping) and public(store) != dict(store):
            raise SettingsError(
                f"the store's settings hold a credential ({layer.origin(['store'])}); take it out "
                "and set it in the environment, for S3 as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
