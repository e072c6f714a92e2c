"""Every test of this room is marked `security`; the services of infra/compose, rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.security.deployed import composed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this room; the hook sees those of all rooms."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("security")


@pytest.fixture(scope="module")
def services(secrets: Path) -> dict[str, Any]:
    """The services as docker-compose renders them beside the `secrets` of the module."""
    return dict(composed(secrets.parent, "compose.yaml")["services"])
