"""A run's Dask cluster on Kubernetes against the operator's schema, the operator's code, and its
pods' commands.
"""

import contextlib
import copy
import json
import os
import re
import socket
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dask_kubernetes.constants import MAX_CLUSTER_NAME_LEN
from dask_kubernetes.operator import KubeCluster
from dask_kubernetes.operator.controller import controller

from infra.clusters import task_runner
from infra.kubernetes import dask_cluster
from infra.settings import ComputeSettings, Settings, SettingsError

CRD = "operator/deployment/helm/dask-kubernetes-operator/crds/daskcluster.yaml"
KUBERNETES = "1.37"
BIN = Path(sys.executable).parent


def compute(**kubernetes: object) -> ComputeSettings:
    return ComputeSettings(runner="dask-kubernetes", workers=3, kubernetes=cast(Any, kubernetes))


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as the API server does in strict mode, except in
    maps.
    """
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    held = {key: closed(inner) for key, inner in schema.items()}
    if held.pop("x-kubernetes-int-or-string", False):
        held["type"] = ["integer", "string"]
        held.pop("anyOf", None)
    open_map = "additionalProperties" in held or held.get("x-kubernetes-preserve-unknown-fields")
    if held.get("type") == "object" and isinstance(held.get("properties"), dict) and not open_map:
        held["additionalProperties"] = False
    return held


def operator_schema() -> dict[str, Any]:
    """The operator's own custom resource definition of a DaskCluster."""
    (version,) = yaml.safe_load((files("dask_kubernetes") / CRD).read_text())["spec"]["versions"]
    schema: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    # the API server's own fields of every object
    schema["properties"] |= {
        "apiVersion": {"const": "kubernetes.dask.org/v1"},
        "kind": {"const": "DaskCluster"},
    }
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def deployments(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the operator's own code makes of it: one Deployment for the scheduler, one for each
    worker.
    """
    name, labels = cluster["metadata"]["name"], cluster["metadata"]["labels"]
    spec = copy.deepcopy(cluster["spec"])
    return {
        "scheduler": controller.build_scheduler_deployment_spec(
            name, spec["scheduler"]["spec"], {}, labels
        ),
        "worker": controller.build_worker_deployment_spec(
            f"{name}-default",
            cluster["metadata"]["namespace"],
            name,
            "0a1b",
            spec["worker"]["spec"],
            {},
            labels,
        ),
    }


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(only)


EVERY_KIND = [
    {},
    {"gpus": 0},
    {"gpus": 8, "service_account": "segmint"},
    {"secret": None, "memory": "512Mi", "cpu": 1},
]


@pytest.mark.slow
@pytest.mark.parametrize("kubernetes", EVERY_KIND)
def test_the_cluster_is_what_the_operator_s_definition_asks_for(
    kubernetes: dict[str, object],
) -> None:
    jsonschema.validate(dask_cluster(compute(**kubernetes), "segmint-0a1b2c3d"), operator_schema())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (["spec", "worker", "replica"], 3),
        (["spec", "idleTimeout"], "15m"),
        (["spec", "worker", "spec", "containers", 0, "envfrom"], []),
        (["spec", "scheduler", "service", "ports", 0, "port"], "http"),
        (["kind"], "Daskcluster"),
    ],
)
def test_a_mistake_is_not_what_it_asks_for(where: list[Any], wrong: object) -> None:
    cluster = dask_cluster(compute(), "segmint-0a1b2c3d")
    *path, last = where
    place: Any = cluster
    for step in path:
        place = place[step]
    place[last] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, operator_schema())


@pytest.mark.parametrize("kubernetes", EVERY_KIND)
def test_what_the_operator_makes_of_it_is_valid_to_kubernetes(
    kubernetes: dict[str, object],
) -> None:
    cluster = dask_cluster(compute(**kubernetes), "segmint-0a1b2c3d")
    service = controller.build_scheduler_service_spec(
        "segmint-0a1b2c3d", cluster["spec"]["scheduler"]["service"], {}, {}
    )
    for made in (*deployments(cluster).values(), service):
        kubernetes_validate.validate(made, KUBERNETES, strict=True)


def test_a_worker_has_its_gpus_one_thread_and_the_store_s_credentials() -> None:
    worker = container(
        deployments(dask_cluster(compute(gpus=2, secret="bucket"), "segmint-1"))["worker"]
    )
    assert worker["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "2"}
    assert worker["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert (
        "GPU=1" in worker["args"] and worker["args"][worker["args"].index("--nthreads") + 1] == "1"
    )


def test_a_worker_without_gpus_asks_for_none_and_offers_none() -> None:
    worker = container(deployments(dask_cluster(compute(gpus=0), "segmint-1"))["worker"])
    assert "nvidia.com/gpu" not in worker["resources"]["limits"]
    assert "--resources" not in worker["args"]


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


WATCH = """
import json, sys
from distributed import Client

def seen():
    import os, urllib.request
    from distributed import get_worker
    worker = get_worker()
    health = urllib.request.urlopen(f"http://127.0.0.1:{worker.http_server.port}/health").status
    limit, slots = worker.memory_manager.memory_limit, worker.state.total_resources
    return {"threads": worker.state.nthreads, "memory": limit, "slots": slots, "health": health,
            "name": worker.name, "environment": dict(os.environ)}

if __name__ == "__main__":
    with Client(sys.argv[1]) as client:
        client.wait_for_workers(1, timeout=120)
        held = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.WORKER_SATURATION)
        print(json.dumps(client.submit(seen, resources={"GPU": 1}).result(120) | {"held": held}))
"""


@pytest.mark.server
def test_the_commands_of_the_pods_make_a_cluster_that_offers_a_gpu(tmp_path: Path) -> None:
    """Started here as a container would be: by its arguments, with its environment and nothing else
    of ours.
    """
    made = deployments(dask_cluster(compute(memory="1Gi"), "segmint-1"))
    ports = dict(zip(("8786", "8787", "8788"), map(str, free_ports(3)), strict=True))
    address = f"tcp://127.0.0.1:{ports['8786']}"

    def start(container: dict[str, Any]) -> "subprocess.Popen[bytes]":
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment |= {pair["name"]: pair["value"] for pair in container.get("env", [])}
        environment |= {"DASK_SCHEDULER_ADDRESS": address} if container["name"] == "worker" else {}
        words = [
            re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], word)
            for word in container["args"]
        ]
        words = [
            ports.get(word, ":" + ports[word[1:]] if word[1:] in ports else word) for word in words
        ]
        return subprocess.Popen([BIN / words[0], *words[1:]], env=environment, cwd=tmp_path)

    with contextlib.ExitStack() as running:
        for name in ("scheduler", "worker"):
            process = running.enter_context(start(container(made[name])))
            running.callback(process.terminate)
        found = subprocess.run(
            [sys.executable, "-c", WATCH, address], check=True, capture_output=True, text=True
        )
    worker = json.loads(found.stdout.splitlines()[-1])
    assert (worker["threads"], worker["memory"], worker["slots"]) == (1, 1 << 30, {"GPU": 1})
    assert worker["held"] == 1  # task a worker at a time
    assert worker["health"] == 200 and worker["name"] == "segmint-1-default-worker-0a1b"
    assert worker["environment"]["OMP_NUM_THREADS"] == "4"
    assert "MALLOC_TRIM_THRESHOLD_" not in worker["environment"]


def test_every_run_gets_a_cluster_of_its_own_name() -> None:
    runners: list[Any] = [task_runner(compute(namespace="nights")) for _ in range(2)]
    names = {runner.cluster_kwargs["custom_cluster_spec"]["metadata"]["name"] for runner in runners}
    assert len(names) == 2 and all(len(name) <= MAX_CLUSTER_NAME_LEN for name in names)
    assert [runner.resolved_cluster_class for runner in runners] == [KubeCluster, KubeCluster]
    assert runners[0].cluster_kwargs["namespace"] == "nights"


def test_an_error_without_the_operator_s_client_has_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dask_kubernetes", None)
    with pytest.raises(SettingsError, match=r"pip install 'segmint\[kubernetes\]'"):
        task_runner(compute())


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": "16G"},
        {"memory": "lots"},
        {"gpus": -1},
        {"cpu": 0},
        {"namespace": "Night"},
        {"secret": ""},
    ],
)
def test_pods_that_kubernetes_would_refuse_are_refused_as_settings(
    wrong: dict[str, object],
) -> None:
    (field,) = wrong
    with pytest.raises(SettingsError, match=rf"compute\.kubernetes\.{field}"):
        Settings(compute={"kubernetes": wrong})
