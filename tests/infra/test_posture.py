"""`segmint doctor --security` says what this installation keeps, and how to close what is open."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_PROFILES_PATH, temporary_settings

import infra.memory
from infra.doctor import Check
from infra.posture import security_checks
from infra.settings import Settings


def checks(settings: Settings | None = None) -> dict[str, Check]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        return {check.name: check for check in security_checks(settings or Settings())}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, no variables, a home without files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "SEGMINT_ALLOWED"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_not_kept_has_a_remedy_and_what_is_kept_has_none() -> None:
    for check in checks().values():
        assert bool(check.remedy) != check.ok, check


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:8333", True),
        ("https://s3.example.org", True),
        ("http://s3.example.org", False),
    ],
)
def test_a_bucket_in_clear_off_this_machine_is_named(
    url: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    assert checks()["bucket's address"].ok is kept


def test_a_bucket_in_clear_that_only_the_options_name_is_named() -> None:
    options = {"endpoint_url": "http://s3.example.org"}
    assert not checks(Settings(store={"options": options}))["bucket's address"].ok


@pytest.mark.parametrize(
    ("runner", "kept"),
    [("threads", True), ("dask-local", True), ("dask://host:1", False), ("dask-kubernetes", False)],
)
def test_dask_in_clear_is_named(runner: str, kept: bool) -> None:
    assert checks(Settings(compute={"runner": runner}))["dask"].ok is kept


@pytest.mark.parametrize(
    ("allowed", "kept"), [("", True), ("/data,s3://shared/x", True), ("/", False), ("s3://", False)]
)
def test_a_list_of_places_that_allows_everything_is_named(
    allowed: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMINT_ALLOWED", allowed)
    assert checks()["places"].ok is kept


@pytest.mark.parametrize(("mode", "kept"), [(0o600, True), (0o640, False), (0o604, False)])
def test_a_file_with_secrets_that_others_may_read_is_named(
    mode: int, kept: bool, tmp_path: Path
) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text("")
    profiles.chmod(mode)
    with temporary_settings({PREFECT_PROFILES_PATH: profiles}):
        found = checks()["secret files"]
    assert found.ok is kept and "profiles.toml" in found.detail


@pytest.mark.parametrize(("mode", "kept"), [(0o755, True), (0o777, False)])
def test_a_store_that_everybody_may_write_is_named(mode: int, kept: bool, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(mode)
    assert checks(Settings(store={"url": str(folder)}))["store"].ok is kept


@pytest.mark.parametrize(("user", "kept"), [(0, False), (1000, True)])
def test_root_is_named(user: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert checks()["user"].ok is kept


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(psutil.virtual_memory().total, False), (1 << 28, True), ((1 << 63) - 4096, False)],
)
def test_memory_without_a_limit_is_named(
    limit: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.memory, "MEMORY_LIMIT", limit)
    assert checks()["memory"].ok is kept
