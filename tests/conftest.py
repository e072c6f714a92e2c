"""Fixtures of all folders, and the markers that divide tests into tiers (CONTRIBUTING.md).

Here a test is marked `server` or `slow` if one of its fixtures starts a server or is slow. A test
that starts a server by itself, opens a browser or is slow by itself has its marker beside it.
"""

from __future__ import annotations

import pytest

from testbed.fleet import fleet
from testbed.postgres import postgres
from testbed.swift import bucket, s3

__all__ = ["bucket", "fleet", "postgres", "s3"]

SERVERS = frozenset({"bucket", "fleet", "gateway", "postgres", "s3", "server"})
SLOW = frozenset({"learned_run"})  # train networks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures and the parameters of these."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        chosen = getattr(item, "callspec", None)
        if chosen:  # `any_store` is a folder or a bucket
            used |= {value for value in chosen.params.values() if isinstance(value, str)}
        if used & SERVERS:
            item.add_marker(pytest.mark.server)
        if used & SLOW:
            item.add_marker(pytest.mark.slow)
