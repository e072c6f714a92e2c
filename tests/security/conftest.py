"""The services of infra/compose, with the secrets that a module has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.security.deployed import composed


@pytest.fixture(scope="module")
def services(secrets: Path) -> dict[str, Any]:
    """The services as docker-compose renders them beside the `secrets` of the module."""
    return dict(composed(secrets.parent, "compose.yaml")["services"])
