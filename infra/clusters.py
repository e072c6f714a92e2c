"""Where tasks run: the one place that knows of threads, Dask workers, Dask's operator and GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any
from uuid import uuid4

import httpx
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext, TaskRunContext
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from infra.kubernetes import CLUSTER_CLASS, dask_cluster, require_dask_kubernetes
from infra.machine import dask_worker
from infra.settings import ComputeSettings

__all__ = [
    "KilledOftenError",
    "check_starts",
    "gpu_slot",
    "gpu_work",
    "hear_workers",
    "send_from_worker",
    "task_runner",
]

MOST_STARTS = (
    10  # of one flow run, which an automation starts again whenever its process was killed
)
SCHEDULER_SECONDS = 300.0  # that a run waits for a scheduler which is started again somewhere
SERVER_SECONDS = 300.0  # that a task waits for a Prefect server that is started again
_LOOPBACK = "127.0.0.1"
_TOPIC = "segmint"  # of Dask, by which workers tell the flow how far they are
# A worker that dies takes the blame for every task it holds; with one each, only the task that
# killed it is blamed.
_ONE_TASK_A_WORKER = {"distributed.scheduler.worker-saturation": 1.0}
# Dask's workers give every freed megabyte back to the system: images on a CPU took 1.65 times as
# long
_KEEP_FREED_MEMORY = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}


class KilledOftenError(RuntimeError):
    """A flow run's process was killed every time that it was started."""


def check_starts() -> None:
    """Raise `KilledOftenError` in a flow run that was started too often, so that it fails and is
    not started again.
    """
    if (count := int(flow_run.run_count or 0)) > MOST_STARTS:
        raise KilledOftenError(
            f"this run was started {count} times and killed each time; see the worker's log (memory?), mend the cause, "
            f"and start the deployment again: everything finished is in the store"
        )


def task_runner(compute: ComputeSettings) -> TaskRunner[Any]:
    """The Prefect task runner that the settings name; Dask is imported only when it is asked for.

    A Dask worker is one process with one thread, so that it can own a GPU and a model.
    """
    if compute.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=compute.workers)
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    if compute.runner == "dask-local":
        dask.config.set(_ONE_TASK_A_WORKER | _KEEP_FREED_MEMORY)
        return DaskTaskRunner(
            cluster_class="distributed.SpecCluster", cluster_kwargs=local_cluster(compute)
        )
    if compute.runner == "dask-kubernetes":
        require_dask_kubernetes()
        resource = dask_cluster(
            compute, name=f"segmint-{uuid4().hex[:8]}"
        )  # no two runs share workers
        cluster = {
            "custom_cluster_spec": resource,
            "namespace": compute.kubernetes.namespace,
            "quiet": True,
        }
        return DaskTaskRunner(cluster_class=CLUSTER_CLASS, cluster_kwargs=cluster)
    address = compute.runner.replace("dask://", "tcp://")
    return DaskTaskRunner(address=address, client_kwargs={"timeout": SCHEDULER_SECONDS})


def local_cluster(compute: ComputeSettings) -> dict[str, Any]:
    """A `SpecCluster` of this machine: a worker a GPU, which sees that one alone, and `workers`
    that see none.
    """
    from distributed import Nanny, Scheduler

    def worker(gpu: int | None) -> dict[str, Any]:
        seen, offered = ("", {}) if gpu is None else (str(gpu), {"GPU": 1})
        environment = {"CUDA_VISIBLE_DEVICES": seen} if compute.gpus else {}
        options = {"host": _LOOPBACK, "nthreads": 1, "resources": offered, "env": environment}
        return {"cls": Nanny, "options": options}

    workers = {f"gpu-{index}": worker(index) for index in range(compute.gpus)}
    workers |= {f"cpu-{index}": worker(None) for index in range(compute.workers)}
    # runs side by side would want the same port for Dask's own pages
    options = {"host": _LOOPBACK, "dashboard": False, "dashboard_address": f"{_LOOPBACK}:0"}
    return {"workers": workers, "scheduler": {"cls": Scheduler, "options": options}}


def gpu_work(compute: ComputeSettings) -> AbstractContextManager[Any]:
    """Submit within this what needs a GPU:

    Dask gives it to workers that offer one, where the settings speak of any.
    """
    if not compute.gpus:
        return nullcontext()
    from dask.base import annotate

    return annotate(resources={"GPU": 1})


@contextmanager
def gpu_slot(compute: ComputeSettings) -> Iterator[None]:
    """Hold one slot of the settings' concurrency limit, so that runs side by side do not share a
    GPU.

    A server that is away is waited for; one that has forgotten the slot, or cannot be told of its
    end, stops no shard.
    """
    slot = ExitStack()
    if compute.limit:
        _take(slot, compute.limit)
    try:
        yield
    finally:
        with suppress(httpx.HTTPError):  # what nobody renews is free again after five minutes
            slot.close()


def _take(slot: ExitStack, limit: str) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        try:
            slot.enter_context(
                concurrency(limit, occupy=1, strict=True, raise_on_lease_renewal_failure=False)
            )
            return
        except ConcurrencySlotAcquisitionError as error:
            if not isinstance(error.__cause__, httpx.TransportError) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def hear_workers(listener: Callable[[dict[str, Any]], None]) -> None:
    """Call `listener`, in another thread, with all that tasks of this flow send from Dask's
    workers, until it ends.

    Without Dask there is nothing to hear. Runs that share a scheduler do not hear each other.
    """
    context = FlowRunContext.get()
    client = getattr(context.task_runner, "client", None) if context else None
    if context is None or context.flow_run is None or client is None:
        return
    run = str(context.flow_run.id)

    def hear(event: tuple[float, Mapping[str, Any]]) -> None:
        if event[1]["flow_run"] == run:
            listener(event[1]["told"])

    client.subscribe_topic(_TOPIC, hear)


def send_from_worker(message: Callable[[], dict[str, Any]]) -> None:
    """Send `message()`, which msgpack can hold, to the flow of this task, if this is a task of a
    Dask worker.
    """
    worker, context = dask_worker(), TaskRunContext.get()
    if worker is None or context is None:
        return
    worker.log_event(_TOPIC, {"flow_run": str(context.task_run.flow_run_id), "told": message()})
