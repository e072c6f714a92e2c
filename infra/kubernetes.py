"""A run's own Dask cluster on Kubernetes: the resource from which the Dask operator makes pods.

The fields are those of dask-kubernetes' `make_cluster_spec`. Comments name the differences.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from infra import SPIN_COUNT
from infra.settings import ComputeSettings, KubernetesSettings, SettingsError

__all__ = ["CLUSTER_CLASS", "dask_cluster", "require_dask_kubernetes"]

CLUSTER_CLASS = "dask_kubernetes.operator.KubeCluster"
# Without a task for so long, the operator removes the cluster: its flow process has died.
IDLE_SECONDS = 900
SCHEDULER_PORT = 8786  # Dask's defaults
SCHEDULER_HTTP = 8787
WORKER_HTTP = 8788  # the operator's default
# All that a pod may write: the home of the image's user, and scratch.
WRITABLE = {"home": "/home/segmint", "tmp": "/tmp"}


def require_dask_kubernetes() -> None:
    """Raise `SettingsError` if the client of Dask's operator is not installed."""
    if importlib.util.find_spec("dask_kubernetes") is None:
        raise SettingsError(
            "compute.runner is 'dask-kubernetes', which needs the package dask-kubernetes; "
            "pip install 'segmint[kubernetes]'"
        )


def dask_cluster(compute: ComputeSettings, name: str) -> dict[str, Any]:
    """Return the DaskCluster (kubernetes.dask.org/v1) `name`.

    It has a scheduler and `compute.workers` workers with one thread each. A worker with GPUs offers
    the Dask resource `GPU=1`. `name` is a DNS label of at most 53 characters.
    """
    pods = compute.kubernetes
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {
            "name": name,
            "namespace": pods.namespace,
            # the operator copies labels to the pods
            "labels": {"app.kubernetes.io/part-of": "segmint"},
        },
        "spec": {
            "idleTimeout": IDLE_SECONDS,
            "scheduler": {"spec": _pod(pods, _scheduler()), "service": _service(name)},
            "worker": {"replicas": compute.workers, "spec": _pod(pods, _worker(pods))},
        },
    }


def _pod(pods: KubernetesSettings, container: dict[str, Any]) -> dict[str, Any]:
    """Return a pod of one container that meets Kubernetes' "restricted" level, and whose image
    cannot be written.
    """
    mounts = [{"name": name, "mountPath": path} for name, path in WRITABLE.items()]
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,  # none of the pods uses the Kubernetes API
        "enableServiceLinks": False,  # nor the addresses of the namespace's services
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            container
            | {
                "image": pods.image,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": mounts,
            }
        ],
        "volumes": [{"name": name, "emptyDir": {}} for name in WRITABLE],
    }
    return spec | ({"serviceAccountName": pods.service_account} if pods.service_account else {})


def _scheduler() -> dict[str, Any]:
    """Return the scheduler's container. Saturation 1.0 gives each worker one task at a time.

    Dask blames a dying worker's tasks for its death, all that it holds.
    """
    command = ["dask", "scheduler", "--port", str(SCHEDULER_PORT)]
    command += ["--dashboard-address", f":{SCHEDULER_HTTP}"]
    return {
        "name": "scheduler",
        "args": command,
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
    """Return a worker's container.

    It has no nanny: Kubernetes restarts it, and a nanny makes workers return freed memory to the
    system at once, which is slow.
    """
    gpus = {"nvidia.com/gpu": str(pods.gpus)} if pods.gpus else {}
    resources = {"cpu": str(pods.cpu), "memory": pods.memory} | gpus
    command = ["dask", "worker", "--no-nanny", "--nthreads", "1", "--name", "$(DASK_WORKER_NAME)"]
    # by default Dask limits the worker to one thread's share of the pod's memory
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
        # five minutes, as long as Dask's scheduler waits for a worker
        "livenessProbe": _health(period=30, failures=10),
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
