"""What infra/compose deploys: rendered by docker-compose, with the secrets of its own script."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
COMPOSE = PROJECT / "infra/compose"


def made_secrets(folder: Path) -> Path:
    """Run secrets.sh on a copy of infra/compose; return the folder of secrets."""
    shutil.copytree(COMPOSE, folder, ignore=shutil.ignore_patterns("secrets*", ".env"))
    for name in ("secrets.sh", "s3.template.json"):
        shutil.copy(COMPOSE / name, folder)
    subprocess.run(["sh", folder / "secrets.sh"], check=True)
    return folder / "secrets"


def composed(folder: Path, *names: str) -> dict[str, Any]:
    """The services, networks and secrets as docker-compose understands the files."""
    files = [word for name in names for word in ("--file", str(folder / name))]
    found = subprocess.run(
        ["docker-compose", "--env-file", COMPOSE / ".env.example", *files, "config"],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return dict(yaml.safe_load(found.stdout))


def environment(service: dict[str, Any], secrets: Path) -> dict[str, str]:
    """A service's variables, with its secrets where they are here."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {name: str(value) for name, value in service["environment"].items()}
    return inherited | {
        name: value.replace("/run/secrets", str(secrets)) for name, value in given.items()
    }
