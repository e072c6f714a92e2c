"""What infra/ deploys gives a broken-into process as little as possible.

docker-compose, kustomize and systemd say what the files mean; Prefect and Dask are started as the
files say.
"""

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.security.deployed import COMPOSE, PROJECT, composed, made_secrets

pytestmark = pytest.mark.debian

FILES = ("compose.yaml", "gpu.yaml")
OUTSIDE = {"prefect", "dask-scheduler"}  # they publish a port, and Prefect notifies


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_secrets(tmp_path_factory.mktemp("compose") / "compose")


@pytest.fixture(scope="module")
def rendered(secrets: Path) -> dict[str, Any]:
    return composed(secrets.parent, *FILES)


# compose


def test_no_container_has_root_or_privileges_or_a_file_system_to_change(
    rendered: dict[str, Any],
) -> None:
    for name, service in rendered["services"].items():
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True and service["tmpfs"], name
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["pids_limit"] > 0 and service["deploy"]["resources"]["limits"]["memory"]
        assert not service.keys() & {
            "privileged",
            "devices",
            "pid",
            "ipc",
            "network_mode",
            "userns",
        }


def test_no_container_reaches_the_host_but_through_its_own_volume(rendered: dict[str, Any]) -> None:
    named = rendered["volumes"].keys()
    used = [
        volume.split(":")[0]
        for service in rendered["services"].values()
        for volume in service.get("volumes", ())
    ]
    assert sorted(used) == sorted(named)  # one each, and no path of the host, such as docker.sock


def test_ports_are_published_to_this_machine_only(rendered: dict[str, Any]) -> None:
    published = {
        name: service["ports"]
        for name, service in rendered["services"].items()
        if "ports" in service
    }
    assert published.keys() == OUTSIDE
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_containers_share_a_network_only_if_they_talk(rendered: dict[str, Any]) -> None:
    members: dict[str, set[str]] = {}
    for name, service in rendered["services"].items():
        for network in service["networks"]:
            members.setdefault(network, set()).add(name)
    runs = {"setup", "worker", "dask-worker"}
    assert members == {
        "database": {"postgres", "prefect"},
        "api": {"prefect", *runs},
        "dask": {"dask-scheduler", *runs},
        "bucket": {"s3", "bucket", *runs},
        "outside": OUTSIDE,
    }
    inside = {name for name, network in rendered["networks"].items() if network.get("internal")}
    assert inside == members.keys() - {"outside"}


def test_workers_reach_the_outside_only_for_a_bucket_there(secrets: Path) -> None:
    networks = composed(secrets.parent, "compose.yaml", "own-bucket.yaml")["networks"]
    assert not networks["bucket"].get("internal")
    assert all(networks[name]["internal"] for name in ("database", "api", "dask"))


def test_no_secret_is_in_a_variable_or_a_command(rendered: dict[str, Any], secrets: Path) -> None:
    text = str(rendered)
    held = {
        word
        for file in secrets.iterdir()
        for word in re.findall(r"\b[0-9a-f]{48}\b", file.read_text())
    }
    assert len(held) == 8  # of the database, of the API, a pair of the bucket, four of SeaweedFS
    assert not [word for word in held if word in text]
    assert "BEGIN" not in text


def test_every_container_gets_only_the_secrets_that_it_needs(rendered: dict[str, Any]) -> None:
    held = {
        name: {secret["source"] for secret in service.get("secrets", ())}
        for name, service in rendered["services"].items()
    }
    client = {"aws", "prefect.toml", "dask.pem"}
    assert held == {
        "postgres": {"postgres"},
        "prefect": {"prefect-server.toml"},
        "s3": {"s3.json", "security.toml"},
        "bucket": {"aws"},
        "setup": client,
        "worker": client,
        "dask-worker": client,
        "dask-scheduler": {"dask.pem"},
    }


def test_images_have_a_version_and_take_a_digest(rendered: dict[str, Any]) -> None:
    for name, service in rendered["services"].items():
        assert re.search(r":\d[\w.-]*$", service["image"]), name
    example = (COMPOSE / ".env.example").read_text()
    for variable in ("BASE_IMAGE", "POSTGRES_IMAGE", "S3_IMAGE"):
        assert variable in (COMPOSE / "compose.yaml").read_text() and f"\n{variable}=" in example


# secrets


def test_nobody_else_can_read_the_secrets_and_a_second_call_keeps_them(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    # containers read them as users of their own
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets.iterdir()} == {0o444}
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    again = subprocess.run(
        ["sh", secrets.parent / "secrets.sh"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and "there already" in again.stderr
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before


def test_every_secret_of_the_compose_file_is_made(rendered: dict[str, Any], secrets: Path) -> None:
    files = {Path(secret["file"]).name for secret in rendered["secrets"].values()}
    assert files == {file.name for file in secrets.iterdir()}


def test_no_two_installations_have_the_same_secrets(secrets: Path, tmp_path: Path) -> None:
    others = made_secrets(tmp_path / "compose")
    assert all((others / file.name).read_text() != file.read_text() for file in secrets.iterdir())


@pytest.mark.parametrize(
    "secret", ["infra/compose/secrets/aws", "infra/compose/.env", "infra/k8s/secrets.yaml"]
)
def test_secrets_stay_out_of_git_and_out_of_the_image(secret: str) -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", secret], cwd=PROJECT, check=False)
    assert ignored.returncode == 0
    patterns = (PROJECT / ".dockerignore").read_text().splitlines()
    folder = "/".join(Path(secret).parts[:2])
    assert patterns.index(folder) > patterns.index("!infra/")  # the last that matches decides


def test_no_document_copies_secrets_with_the_mode_of_the_example() -> None:
    for document in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        assert not re.search(r"\bcp \S*(\.env|secrets)", document.read_text()), document
