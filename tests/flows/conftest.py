"""One Prefect server for all flows of the session, and one undisturbed run."""

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
    """Prefect's API for this process and its child processes."""
    quiet = {PREFECT_LOGGING_LEVEL: "CRITICAL", PREFECT_LOGGING_TO_API_ENABLED: False}
    # telemetry writes while the database is created; on a busy machine one finds it locked
    alone = {PREFECT_SERVER_ANALYTICS_ENABLED: False}
    with (
        temporary_settings(quiet | alone),
        prefect_test_harness(server_startup_timeout=START_SECONDS),
    ):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread for tensors, as Dask's workers do; processes side by side are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, server: None, one_thread: None
) -> Settings:
    """Settings of a run that is finished in its store."""
    chosen = nights.settings(tmp_path_factory.mktemp("undisturbed") / "store")
    nights.run(chosen)
    return chosen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for a store."""
    return tmp_path / "store"
