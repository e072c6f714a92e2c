"""infra/k8s and the pods of a run: who reaches whom, and what a broken-into pod may write."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.kubernetes import dask_cluster
from infra.settings import ComputeSettings
from tests.security.deployed import PROJECT
from tests.security.policies import admitted, pod

BIN = Path(sys.executable).parent
POSTGRES, PREFECT, SETUP, FLOW = (
    pod(**{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "segmint"})
    for name in ("postgres", "prefect", "setup", "worker")
)
SCHEDULER, WORKER = (
    pod(**{"dask.org/component": name, "app.kubernetes.io/part-of": "segmint"})
    for name in ("scheduler", "worker")
)
STRANGER = pod(app="stranger")
NAMES = {"labels": {}, "namespace": {"kubernetes.io/metadata.name": "kube-system"}}
OPERATOR = {"labels": {}, "namespace": {"kubernetes.io/metadata.name": "dask-operator"}}
ELSEWHERE = {"labels": {}, "namespace": {"kubernetes.io/metadata.name": "default"}}
BUCKET, METADATA, PRIVATE = "52.218.1.1", "169.254.169.254", "10.0.0.7"


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    made = subprocess.run(
        [BIN / "kubectl", "kustomize", PROJECT / "infra/k8s/gpu"], capture_output=True, check=True
    )
    return list(yaml.safe_load_all(made.stdout))


@pytest.fixture(scope="module")
def policies(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == "NetworkPolicy"]


def test_what_needs_each_other_can_talk(policies: list[dict[str, Any]]) -> None:
    needed = [
        (PREFECT, POSTGRES, 5432),
        *((source, PREFECT, 4200) for source in (SETUP, FLOW, WORKER)),
        *((source, BUCKET, 443) for source in (SETUP, FLOW, WORKER)),
        (PREFECT, BUCKET, 443),  # whom it notifies
        (FLOW, "10.96.0.1", 443),  # the Kubernetes API
        (FLOW, PRIVATE, 6443),
        (FLOW, SCHEDULER, 8786),
        (WORKER, SCHEDULER, 8786),
        (SCHEDULER, WORKER, 40000),
        (OPERATOR, SCHEDULER, 8787),
    ]
    assert [each for each in needed if not admitted(policies, *each)] == []
    pods = (PREFECT, SETUP, FLOW, SCHEDULER, WORKER)
    assert all(admitted(policies, each, NAMES, 53, "UDP") for each in pods)


def test_nothing_else_can(policies: list[dict[str, Any]]) -> None:
    ours = (POSTGRES, PREFECT, SETUP, FLOW, SCHEDULER, WORKER)
    forbidden = [
        *((each, METADATA, 80) for each in ours),  # the cloud's credentials of the node
        *((each, METADATA, 443) for each in ours),
        *((each, BUCKET, 80) for each in ours),
        *((each, PRIVATE, 22) for each in ours),
        (POSTGRES, BUCKET, 443),
        *((source, POSTGRES, 5432) for source in (SETUP, FLOW, SCHEDULER, WORKER, STRANGER)),
        *((source, SCHEDULER, 8786) for source in (PREFECT, SETUP, POSTGRES, STRANGER, ELSEWHERE)),
        *((WORKER, PRIVATE, port) for port in (443, 6443, 10250)),  # the Kubernetes API, a kubelet
        *((STRANGER, target, 443) for target in (BUCKET, PREFECT)),
        *((ELSEWHERE, target, 4200) for target in ours),
        (WORKER, ELSEWHERE, 53),
    ]
    assert [each for each in forbidden if admitted(policies, *each)] == []


def specs(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of all pods: those of the manifests, and those of a run."""
    cluster = dask_cluster(ComputeSettings(runner="dask-kubernetes"), "segmint-1")["spec"]
    fixed = [
        each["spec"]["template"]["spec"] for each in objects if "template" in each.get("spec", {})
    ]
    return [*fixed, cluster["scheduler"]["spec"], cluster["worker"]["spec"]]


def test_no_pod_can_change_its_image(objects: list[dict[str, Any]]) -> None:
    for spec in specs(objects):
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_volumes_hold_nothing_of_the_node(objects: list[dict[str, Any]]) -> None:
    for spec in specs(objects):
        claimed = {"data"} if spec["containers"][0]["name"] == "postgres" else set()
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounted = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounted - claimed == volumes.keys()
        assert all(volume.keys() == {"name", "emptyDir"} for volume in volumes.values())


def test_only_flows_have_a_token_of_the_kubernetes_api(objects: list[dict[str, Any]]) -> None:
    holders = [
        spec["containers"][0]["image"]
        for spec in specs(objects)
        if spec.get("automountServiceAccountToken", True)
    ]
    accounts = [
        spec["serviceAccountName"] for spec in specs(objects) if "serviceAccountName" in spec
    ]
    assert len(holders) == 1 and accounts == ["segmint-worker"]


def test_images_have_a_version(objects: list[dict[str, Any]]) -> None:
    images = {spec["containers"][0]["image"] for spec in specs(objects)}
    assert all(":" in image and not image.endswith(":latest") for image in images)
