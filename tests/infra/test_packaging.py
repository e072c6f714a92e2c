"""Deployment files are checked by the tools of their formats, and fit segmint's own settings.

hadolint for the Dockerfile, docker-compose for the compose files, kubectl's kustomize and
Kubernetes' own schemas for the manifests, systemd-analyze for the units. None needs a daemon or a
cluster.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from infra.settings import Settings
from infra.store import Store
from testbed.swift import Swift

pytestmark = pytest.mark.debian

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILE = PROJECT / "infra/images/Dockerfile"
COMPOSE = PROJECT / "infra/compose"
MANIFESTS = PROJECT / "infra/k8s"
OLDEST, NEWEST = "1.28", "1.37"  # Kubernetes
DEBIAN_PYTHON = {"python_full_version": "3.11.2", "python_version": "3.11"}  # of Debian 12


def run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True)


def with_environment(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> Settings:
    """The settings of a process that is started with these variables."""
    for name in [name for name in os.environ if name.startswith("SEGMINT_")]:
        monkeypatch.delenv(name)
    for name, value in values.items():
        if name.startswith("SEGMINT_"):
            monkeypatch.setenv(name, value)
    return Settings()


# the image


def test_the_image_s_definition_is_what_hadolint_accepts() -> None:
    judged = run(BIN / "hadolint", DOCKERFILE)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize(
    ("right", "wrong"), [("USER 1000", "USER root"), ("WORKDIR /opt", "WORKDIRR /opt")]
)
def test_a_mistake_in_the_image_s_definition_is_found(
    right: str, wrong: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text().replace(right, wrong))
    assert run(BIN / "hadolint", tmp_path / "Dockerfile").returncode != 0


def test_the_image_holds_every_package_and_the_deployments() -> None:
    rooms = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]["find"]["include"]
    copied = {
        name.rstrip("/")
        for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text(), re.M)
        for name in line.split()
    }
    kept = {
        line[1:].rstrip("/")
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    assert copied >= {room.rstrip("*") for room in rooms} | {"prefect.yaml", "requirements.sums"}
    assert copied == kept and all((PROJECT / name).exists() for name in copied)


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_at_run_time() -> set[str]:
    """Packages that segmint and its extra `kubernetes` ask for on Debian's Python, and theirs."""
    found: set[str] = set()
    asked = [Requirement("segmint[kubernetes]")]
    while asked:
        requirement = asked.pop()
        extras = {"", *requirement.extras}
        for line in metadata.requires(requirement.name) or ():
            inner = Requirement(line)
            wanted = inner.marker is None or any(
                inner.marker.evaluate(DEBIAN_PYTHON | {"extra": extra}) for extra in extras
            )
            key = f"{plain(inner.name)}{sorted(inner.extras)}"
            if wanted and key not in found:
                found.add(key)
                with suppress(metadata.PackageNotFoundError):  # this Python needs it not
                    metadata.version(inner.name)
                    asked.append(inner)
    return {key.partition("[")[0] for key in found}


def test_the_image_leaves_out_the_development_tools_and_nothing_else() -> None:
    (words,) = re.findall(r"'\^\(([\w|-]+)\)=='", DOCKERFILE.read_text())
    lines = (PROJECT / "requirements.sums").read_text().splitlines()
    locked = {plain(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert {plain(word) for word in words.split("|")} == locked - needed_at_run_time()
    assert all(any(line.startswith(f"{word}==") for line in lines) for word in words.split("|"))


# compose


def compose(*files: Path) -> "subprocess.CompletedProcess[str]":
    chosen = [word for file in files for word in ("--file", str(file))]
    return run("docker-compose", "--env-file", COMPOSE / ".env.example", *chosen, "config")


def composed(*names: str) -> dict[str, Any]:
    found = compose(*(COMPOSE / name for name in names))
    assert found.returncode == 0, found.stderr
    return dict(yaml.safe_load(found.stdout))


@pytest.mark.parametrize(
    "names", [("compose.yaml",), ("compose.yaml", "gpu.yaml", "own-bucket.yaml")]
)
def test_the_compose_files_are_what_docker_compose_accepts(names: tuple[str, ...]) -> None:
    assert {"postgres", "prefect", "s3", "setup", "worker", "dask-scheduler", "dask-worker"} <= set(
        composed(*names)["services"]
    )


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healthchek:"),
        ("condition: service_healthy", "condition: healthy"),
        ("bucket: {condition", "buckets: {condition"),
        ("postgres:/var/lib", "postgress:/var/lib"),
    ],
)
def test_a_mistake_in_the_compose_file_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text((COMPOSE / "compose.yaml").read_text().replace(right, wrong))
    assert compose(broken).returncode != 0


def test_the_example_names_every_variable() -> None:
    used = {
        name
        for file in COMPOSE.glob("*.yaml")
        for name in re.findall(r"\$\{(\w+)", file.read_text())
    }
    example = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.M))
    assert example.keys() == used


def test_every_service_that_stays_is_watched_and_limited() -> None:
    services = composed("compose.yaml")["services"]
    staying = {name: service for name, service in services.items() if service["restart"] != "no"}
    assert set(services) - set(staying) == {"bucket", "setup"}
    assert all(service["healthcheck"]["test"] for service in staying.values())
    assert all(
        service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
        for service in staying.values()
    )


def test_services_of_compose_get_valid_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = with_environment(
        monkeypatch, composed("compose.yaml")["services"]["worker"]["environment"]
    )
    assert settings.compute.runner == "dask://dask-scheduler:8786"
    assert settings.store.url == "s3://segmint/store"


def test_the_bucket_is_made_once_by_a_command_that_may_run_again(s3: Swift) -> None:
    name, words = f"b-{uuid.uuid4().hex}", composed("compose.yaml")["services"]["bucket"]["command"]
    for _ in range(2):
        made = run(BIN / words[0], *words[1:], BUCKET=name, **s3.environment)
        assert made.returncode == 0, made.stderr
    Store.open(f"s3://{name}/store", s3.options).probe()


# Kubernetes


def built(folder: Path) -> list[dict[str, Any]]:
    made = run(BIN / "kubectl", "kustomize", folder)
    assert made.returncode == 0 and not made.stderr, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def template() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / "secrets.example.yaml").read_text()))


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in objects
        if "template" in each.get("spec", {})
    }


def values(node: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, anywhere in it."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and key in node:
        yield node[key]
    for each in inner:
        yield from values(each, key)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_the_manifests_are_valid_to_kubernetes_own_schemas(overlay: str, version: str) -> None:
    for each in [*built(MANIFESTS / overlay), *template()]:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("envFrom:", "envfrom:"),
        ("replicas: 1", "replicas: one"),
        ("kind: Service\n", "kind: Servis\n"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(right: str, wrong: str) -> None:
    broken = yaml.safe_load_all((MANIFESTS / "base/prefect.yaml").read_text().replace(right, wrong))
    with pytest.raises(
        (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)
    ):
        for each in broken:
            kubernetes_validate.validate(each, NEWEST, strict=True)


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_everything_that_a_manifest_refers_to_exists(overlay: str) -> None:
    objects = [*built(MANIFESTS / overlay), *template()]
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    secrets = {ref["name"] for key in ("secretRef", "secretKeyRef") for ref in values(objects, key)}
    configs = {ref["name"] for ref in values(objects, "configMapRef")}
    accounts = set(values(objects, "serviceAccountName"))
    assert {("Secret", name) for name in secrets} == {each for each in there if each[0] == "Secret"}
    assert {("ConfigMap", name) for name in configs} == {
        each for each in there if each[0] == "ConfigMap"
    }
    assert {("ServiceAccount", name) for name in accounts} <= there
    labels = [template["metadata"]["labels"] for template in pods(objects).values()]
    for service in (each for each in objects if each["kind"] == "Service"):
        assert any(service["spec"]["selector"].items() <= of_pod.items() for of_pod in labels), (
            service["metadata"]
        )


def test_the_template_of_secrets_holds_none() -> None:
    assert {value for each in template() for value in each["stringData"].values()} == {""}


def test_every_pod_is_as_restricted_as_its_namespace_demands() -> None:
    for pod in pods(built(MANIFESTS / "gpu")).values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(("overlay", "gpus"), [("base", 0), ("gpu", 1)])
def test_flows_in_the_cluster_get_valid_settings(
    overlay: str, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = built(MANIFESTS / overlay)
    (config,) = (each["data"] for each in objects if each["kind"] == "ConfigMap")
    compute = with_environment(monkeypatch, config).compute
    assert (compute.runner, compute.kubernetes.namespace, compute.kubernetes.gpus) == (
        "dask-kubernetes",
        "segmint",
        gpus,
    )
    images = {name: pod["spec"]["containers"][0]["image"] for name, pod in pods(objects).items()}
    assert images["worker"] == images["prefect"] == images["setup"] == compute.kubernetes.image
    assert compute.kubernetes.secret in {each["metadata"]["name"] for each in template()}


# one machine


def units(folder: Path, right: str = "", wrong: str = "") -> "subprocess.CompletedProcess[str]":
    """systemd's verdict, with this project's place for /opt/segmint, since it wants to see the
    programs.
    """
    copies = []
    for unit in sorted((PROJECT / "infra/systemd").glob("*.service")):
        text = (
            unit.read_text()
            .replace("/opt/segmint/.venv/bin", str(BIN))
            .replace("/opt/segmint", str(PROJECT))
        )
        copies.append(folder / unit.name)
        copies[-1].write_text(text.replace(right, wrong) if right else text)
    return run("systemd-analyze", "verify", "--man=no", *copies)


def test_the_units_are_what_systemd_accepts(tmp_path: Path) -> None:
    judged = units(tmp_path)
    assert (judged.returncode, judged.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"), [("RestartSec=", "RestartSecs="), ("bin/prefect ", "bin/perfect ")]
)
def test_a_mistake_in_a_unit_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    assert units(tmp_path, right, wrong).stderr


# the version


TAG = re.compile(r"segmint-(?:cpu|gpu|\$\{DEVICE:-cpu\}):(\S+)|newTag: (\S+)")


def test_every_image_tag_is_the_version_of_pyproject() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    files = [DOCKERFILE, *COMPOSE.glob("*.yaml"), *MANIFESTS.rglob("*.yaml")]
    tags = [a or b for file in files for a, b in TAG.findall(file.read_text())]
    assert tags == [version] * 7
    assert Settings().compute.kubernetes.image == f"segmint-gpu:{version}"


# commands


def commands() -> Iterator[list[str]]:
    """What compose, Kubernetes and systemd start."""
    yield from values(composed("compose.yaml", "gpu.yaml"), "command")
    yield from values(built(MANIFESTS / "base"), "args")
    for unit in (PROJECT / "infra/systemd").glob("*.service"):
        yield from (
            line.split() for line in re.findall("^ExecStart=.*/bin/(.*)$", unit.read_text(), re.M)
        )


def test_the_programs_know_every_option_that_they_are_given() -> None:
    given: dict[tuple[str, ...], set[str]] = {}
    for words in commands():
        first = next(
            (index for index, word in enumerate(words) if word.startswith("--") or "://" in word), 0
        )
        if words[0] in ("prefect", "dask"):
            options = {word.split("=")[0] for word in words if word.startswith("--")}
            given.setdefault(tuple(words[:first]), set()).update(options)
    assert len(given) == 4
    for program, options in given.items():
        told = run(BIN / program[0], *program[1:], "--help", COLUMNS="200", NO_COLOR="1")
        assert told.returncode == 0, told.stderr
        assert options <= set(re.findall(r"--[a-z-]+", told.stdout)), program


# what the tests need


def test_a_missing_program_stops_with_the_line_that_installs_it(tmp_path: Path) -> None:
    for name in ("bash", "id"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    stopped = run("bash", PROJECT / ".ci/packages", "tests", PATH=str(tmp_path))
    assert (stopped.returncode, stopped.stdout) == (1, "")
    (line,) = re.findall(r"run: sudo sh -c '(.+)'", stopped.stderr)
    assert line.startswith("apt-get update && apt-get install ")
    assert {"docker-compose", "systemd", "prometheus-pushgateway"} <= set(line.split())


def test_make_test_brings_what_tests_need_before_the_first_of_them() -> None:
    told = run("make", "--dry-run", "--directory", PROJECT, "test")
    assert told.returncode == 0, told.stderr
    assert told.stdout.index(".ci/packages tests") < told.stdout.index("-m pytest")


def test_ci_leaves_what_is_installed_to_make() -> None:
    words = set(re.findall(r"[\w-]+", (PROJECT / ".ci/run").read_text()))
    assert "make" in words and not words & {"apt-get", "pip", "apt", "npm"}
