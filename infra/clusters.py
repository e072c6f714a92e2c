"""Where tasks run: the one place that knows of threads, local Dask workers, Dask schedulers and Dask's operator."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from infra.kubernetes import CLUSTER_CLASS, dask_cluster, require_dask_kubernetes
from infra.settings import ComputeSettings

__all__ = ["task_runner"]


def task_runner(compute: ComputeSettings) -> TaskRunner[Any]:
    """The Prefect task runner that the settings name; Dask is imported only when it is asked for.

    A Dask worker is one process with one thread, so that it can own a GPU and a model.
    """
    if compute.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=compute.workers)
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    if compute.runner == "dask-local":
        # Dask's workers give every freed megabyte back to the system: images on a CPU took 1.65 times as long
        dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None})
        workers = {"n_workers": compute.workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        return DaskTaskRunner(cluster_class="distributed.LocalCluster", cluster_kwargs=workers)
    if compute.runner == "dask-kubernetes":
        require_dask_kubernetes()
        resource = dask_cluster(compute, name=f"segmint-{uuid4().hex[:8]}")  # no two runs share workers
        cluster = {"custom_cluster_spec": resource, "namespace": compute.kubernetes.namespace, "quiet": True}
        return DaskTaskRunner(cluster_class=CLUSTER_CLASS, cluster_kwargs=cluster)
    return DaskTaskRunner(address=compute.runner.replace("dask://", "tcp://"))
