"""A run's own Dask cluster on Kubernetes: the resource from which the Dask operator makes its pods.

The fields are those of dask-kubernetes' `make_cluster_spec`; what differs is said beside it.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from infra import SPIN_COUNT
from infra.settings import ComputeSettings, KubernetesSettings, SettingsError

__all__ = ["CLUSTER_CLASS", "dask_cluster", "require_dask_kubernetes"]

CLUSTER_CLASS = "dask_kubernetes.operator.KubeCluster"
IDLE_SECONDS = (
    900  # without a task, after which the operator removes a cluster whose flow process died
)
SCHEDULER_PORT, SCHEDULER_HTTP, WORKER_HTTP = (
    8786,
    8787,
    8788,
)  # Dask's own defaults, the operator's for workers


def require_dask_kubernetes() -> None:
    """Raise `SettingsError` if the client of Dask's operator is not installed."""
    if importlib.util.find_spec("dask_kubernetes") is None:
        raise SettingsError(
            "compute.runner is 'dask-kubernetes', which needs the package dask-kubernetes; "
            "pip install 'segmint[kubernetes]'"
        )


def dask_cluster(compute: ComputeSettings, name: str) -> dict[str, Any]:
    """The DaskCluster (kubernetes.dask.org/v1) `name`: a scheduler, and `compute.workers` workers
    of one thread.

    A worker with GPUs offers Dask's resource `GPU=1`. `name` is a DNS label of at most 53
    characters.
    """
    pods = compute.kubernetes
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {
            "name": name,
            "namespace": pods.namespace,
            "labels": {
                "app.kubernetes.io/part-of": "segmint"
            },  # the operator passes it on to the pods
        },
        "spec": {
            "idleTimeout": IDLE_SECONDS,
            "scheduler": {"spec": _pod(pods, _scheduler()), "service": _service(name)},
            "worker": {"replicas": compute.workers, "spec": _pod(pods, _worker(pods))},
        },
    }


def _pod(pods: KubernetesSettings, container: dict[str, Any]) -> dict[str, Any]:
    """What Kubernetes' "restricted" level asks of a pod, around its one container."""
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,  # neither scheduler nor workers speak to Kubernetes
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            container
            | {
                "image": pods.image,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    return spec | ({"serviceAccountName": pods.service_account} if pods.service_account else {})


def _scheduler() -> dict[str, Any]:
    """One task a worker at a time: one that dies takes the blame for all it holds, though one of
    them killed it.
    """
    dashboard = f":{SCHEDULER_HTTP}"
    return {
        "name": "scheduler",
        "args": [
            "dask",
            "scheduler",
            "--port",
            str(SCHEDULER_PORT),
            "--dashboard-address",
            dashboard,
        ],
        "env": [{"name": "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION", "value": "1.0"}],
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
        "ports": [
            {"name": "tcp-comm", "containerPort": SCHEDULER_PORT, "protocol": "TCP"},
            {"name": "http-dashboard", "containerPort": SCHEDULER_HTTP, "protocol": "TCP"},
        ],
        "readinessProbe": _health(period=2, failures=3),
        "livenessProbe": _health(period=20, failures=6),
    }


def _worker(pods: KubernetesSettings) -> dict[str, Any]:
    """No nanny, for Kubernetes is one; and a nanny would have the worker hand back every freed
    megabyte at once.
    """
    gpus = {"nvidia.com/gpu": str(pods.gpus)} if pods.gpus else {}
    resources = {"cpu": str(pods.cpu), "memory": pods.memory} | gpus
    command = ["dask", "worker", "--no-nanny", "--nthreads", "1", "--name", "$(DASK_WORKER_NAME)"]
    # left to itself, Dask takes a thread's share of the pod's memory for the worker's limit
    command += ["--memory-limit", f"{pods.memory}B", "--dashboard-address", f":{WORKER_HTTP}"]
    return {
        "name": "worker",
        "args": command + (["--resources", "GPU=1"] if gpus else []),
        "env": [
            {"name": "OMP_NUM_THREADS", "value": str(pods.cpu)},  # else torch counts all cores
            {"name": "GOMP_SPINCOUNT", "value": SPIN_COUNT},
        ],
        "envFrom": [{"secretRef": {"name": pods.secret}}] if pods.secret else [],
        "resources": {"requests": resources, "limits": resources},
        "ports": [{"name": "http-dashboard", "containerPort": WORKER_HTTP, "protocol": "TCP"}],
        "readinessProbe": _health(period=5, failures=3),
        "livenessProbe": _health(
            period=30, failures=10
        ),  # five minutes, as long as Dask's scheduler waits itself
    }


def _health(period: int, failures: int) -> dict[str, Any]:
    probe = {"periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 10}
    return probe | {"httpGet": {"path": "/health", "port": "http-dashboard"}}


def _service(name: str) -> dict[str, Any]:
    ports = {"tcp-comm": SCHEDULER_PORT, "http-dashboard": SCHEDULER_HTTP}
    return {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [
            {"name": port, "protocol": "TCP", "port": number, "targetPort": port}
            for port, number in ports.items()
        ],
    }
