"""A store's URL: a folder, or a bucket of a protocol that fsspec knows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from infra.credentials import holds_credential
from infra.store.errors import StoreError
from infra.text import UNSEEN

__all__ = ["endpoint_of", "resolve_url"]


def resolve_url(url: str) -> str:
    """Return an absolute folder, or a URL as it is, without a slash at its end.

    Raises `StoreError` for credentials, unknown protocols and names of nothing.
    """
    protocol, mark, rest = url.partition("://")
    if mark and holds_credential(url):
        raise StoreError(
            f"store url of {protocol}: give credentials in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or in the options; a url has no user, query or fragment"
        )
    if UNSEEN.search(url):
        raise StoreError(
            f"store url {url!r} has characters that cannot be seen; "
            "use a folder or s3://bucket/prefix"
        )
    if not mark or protocol in ("file", "local"):
        if not (folder := rest if mark else url).strip():  # else it is the working directory
            raise StoreError(
                f"store url {url!r} names no folder; use a folder or s3://bucket/prefix"
            )
        return str(Path(folder).expanduser().resolve())
    if protocol not in fsspec.available_protocols():
        raise StoreError(
            f"store url {url!r}: unknown protocol {protocol!r}; use a folder or s3://bucket/prefix"
        )
    if not rest.split("/")[0] and protocol != "memory":
        raise StoreError(f"store url {url!r} names no bucket; use s3://bucket/prefix")
    return url.rstrip("/")


def endpoint_of(options: Mapping[str, Any]) -> str | None:
    """Return the address of the S3 server that the options or the environment name, if any."""
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    return options.get("endpoint_url") or next(filter(None, named), None)
