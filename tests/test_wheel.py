"""The wheel holds everything that a run needs, and runs without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import segmint

ROOT = Path(__file__).parents[1]
PACKAGES = ("segmint", "flows", "tasks", "models", "infra")
DEPLOYMENT = ("infra/compose", "infra/images", "infra/k8s", "infra/systemd")  # used from a checkout
SECONDS = 1200  # for one command; a minute on an idle machine

pytestmark = [pytest.mark.server, pytest.mark.slow]


def run(folder: Path, *words: str | Path) -> str:
    """Run a command in a folder, with no way to the checkout; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, because a build writes into its source folder."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    built = tmp_path_factory.mktemp("wheel")
    options: list[str | Path] = ["--no-deps", "--no-build-isolation", "--wheel-dir", built]
    run(source, sys.executable, "-m", "pip", "wheel", *options, source)
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and this environment's dependencies.

    A line of a .pth file adds a folder, but reads no .pth file in it. So the editable install of
    the checkout stays behind.
    """
    environment = tmp_path_factory.mktemp("environment")
    run(environment, sys.executable, "-m", "venv", environment)
    python = environment / "bin/python"
    run(environment, python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.fixture(scope="module")
def folder(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the installed wheel has finished the smallest run."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(ROOT / "tests/tiny.toml", folder)
    run(folder, installed / "segmint", "run", "--config", "tiny.toml")
    return folder


def test_the_wheel_holds_every_file_of_its_packages_and_nothing_else(
    source: Path, wheel: Path
) -> None:
    files = {
        path.relative_to(source).as_posix()
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    wanted = {file for file in files if not file.startswith(DEPLOYMENT)}
    with zipfile.ZipFile(wheel) as archive:
        names = {PurePosixPath(name) for name in archive.namelist()}
    held = {str(name) for name in names if not name.parts[0].endswith(".dist-info")}
    assert held == wanted


def test_the_installed_packages_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = f"import {', '.join(PACKAGES)}; print({', '.join(f'{p}.__file__' for p in PACKAGES)})"
    for file in run(tmp_path, installed / "python", "-c", program).split():
        assert Path(file).is_relative_to(installed.parent)


def test_the_command_line_knows_its_version(installed: Path, tmp_path: Path) -> None:
    said = run(tmp_path, installed / "segmint", "--version")
    assert said == f"segmint {segmint.__version__}\n"


def test_a_run_of_the_installed_wheel_publishes_and_trains(installed: Path, folder: Path) -> None:
    store = folder / "out/store"
    config = ("--config", "tiny.toml", "--json")
    (version,) = json.loads(run(folder, installed / "segmint", "versions", *config))
    found = json.loads(run(folder, installed / "segmint", "checkpoints", *config))
    assert version["samples"] > 0
    (checkpoint,) = found["checkpoints"]
    assert checkpoint["champion"]
    assert checkpoint["version"] == version["version"]
    assert (store / "runs/tiny/report.html").stat().st_size > 0


def test_what_the_installed_wheel_wrote_is_read_by_the_checkout(folder: Path) -> None:
    store = segmint.Store.open(str(folder / "out/store"))
    (version,) = segmint.list_versions(store)
    dataset = segmint.SegmentationDataset(store.url, version.version)
    assert len(dataset) == version.samples
    assert dataset[0]["image"].shape[1:] == dataset[0]["label"].shape
