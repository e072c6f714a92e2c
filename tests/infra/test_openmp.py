"""How OpenMP's threads wait: set on import, unless the user has chosen."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra import SPIN_COUNT

PROJECT = Path(__file__).parents[2]
DEPLOYED = [
    "prefect.yaml",
    "infra/images/Dockerfile",
    "infra/compose/compose.yaml",
    "infra/k8s/base/kustomization.yaml",
    "infra/systemd/segmint-worker.service",
]
SHOW = "import os, infra; print(os.environ.get('GOMP_SPINCOUNT'))"


def spin_count(**chosen: str) -> str:
    """`GOMP_SPINCOUNT` in a process that was started with these variables and imports infra."""
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", SHOW]
    shown = subprocess.run(
        command, env=environment | chosen, capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


def test_importing_infra_makes_waiting_threads_yield_their_core() -> None:
    assert spin_count() == "1000"


@pytest.mark.parametrize(
    ("chosen", "found"),
    [({"GOMP_SPINCOUNT": "50"}, "50"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_a_user_s_own_choice_stays(chosen: dict[str, str], found: str) -> None:
    assert spin_count(**chosen) == found


def test_importing_infra_imports_no_torch() -> None:
    command = [sys.executable, "-c", "import sys, infra; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(command).returncode == 0


@pytest.mark.parametrize("file", DEPLOYED)
def test_every_way_to_deploy_sets_the_same_value(file: str) -> None:
    found = re.findall(r'GOMP_SPINCOUNT(?:: |=)"?(\d+)', (PROJECT / file).read_text())
    assert found == [SPIN_COUNT]
