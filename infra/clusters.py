"""Where tasks run: the one place that knows of threads, local Dask workers and Dask schedulers."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

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
    return DaskTaskRunner(address=compute.runner.replace("dask://", "tcp://"))
