"""One Prefect server for all flows of the session, and one night that nothing disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from prefect.settings import (
    PREFECT_LOGGING_LEVEL,
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from infra.settings import Settings
from testbed import nights

START_SECONDS = 300  # it takes ten on an idle machine


@pytest.fixture(scope="session", autouse=True)
def server() -> Iterator[None]:
    """Prefect's API for this process, and for those it starts."""
    quiet = {PREFECT_LOGGING_LEVEL: "CRITICAL", PREFECT_LOGGING_TO_API_ENABLED: False}
    # its telemetry writes while the database is being made, and on a busy machine one of the two
    # finds it locked
    alone = {PREFECT_SERVER_ANALYTICS_ENABLED: False}
    with (
        temporary_settings(quiet | alone),
        prefect_test_harness(server_startup_timeout=START_SECONDS),
    ):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Processes side by side are faster with one thread each, and Dask gives its workers no more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, server: None, one_thread: None
) -> Settings:
    """The settings of a night that is in its store."""
    chosen = nights.settings(tmp_path_factory.mktemp("undisturbed") / "store")
    nights.run(chosen)
    return chosen


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for a store."""
    return tmp_path / "store"
