"""Fixtures of all folders, and the markers that divide tests into tiers (CONTRIBUTING.md).

A test whose fixtures start a server is marked `server` here. A test that starts one by itself, that
opens a browser or that is slow has its marker beside it.
"""

from __future__ import annotations

import pytest

from testbed.fleet import fleet
from testbed.postgres import postgres
from testbed.swift import bucket, s3

__all__ = ["bucket", "fleet", "postgres", "s3"]

SERVERS = frozenset({"bucket", "fleet", "gateway", "postgres", "s3", "server"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test whose fixtures, or their parameters, name a server."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        chosen = getattr(item, "callspec", None)
        if chosen:  # `any_store` is a folder or a bucket
            used |= {value for value in chosen.params.values() if isinstance(value, str)}
        if used & SERVERS:
            item.add_marker(pytest.mark.server)
