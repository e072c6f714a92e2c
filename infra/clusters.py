"""Where tasks run: threads, Dask workers, Dask on Kubernetes, and GPUs. No other module knows."""

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
from infra.machine import dask_worker, own_folder
from infra.settings import ComputeSettings, SettingsError

__all__ = [
    "KilledOftenError",
    "check_starts",
    "gpu_slot",
    "gpu_work",
    "hear_workers",
    "send_from_worker",
    "task_runner",
]

MOST_STARTS = 10  # of one flow run; an automation starts it again whenever its process was killed
SCHEDULER_SECONDS = 300.0  # a run waits this long for a Dask scheduler that restarts
SERVER_SECONDS = 300.0  # a task waits this long for a Prefect server that restarts
_LOOPBACK = "127.0.0.1"
_TOPIC = "segmint"  # of Dask: workers send their progress to the flow on it
# Dask blames every task that a dying worker holds. A worker that holds one task has the right one
# blamed.
_ONE_TASK_PER_WORKER = {"distributed.scheduler.worker-saturation": 1.0}
# Whoever may connect to Dask can run code in it. Its pages need no password and tell of tasks.
_NO_PAGES = {
    "distributed.scheduler.http.routes": ["distributed.http.health"],
    "distributed.worker.http.routes": ["distributed.http.health"],
}
# Dask's workers return every freed megabyte to the system, which made images on a CPU take 1.65
# times as long.
_KEEP_FREED_MEMORY = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}


class KilledOftenError(RuntimeError):
    """The process of a flow run was killed after every start."""


def check_starts() -> None:
    """Raise `KilledOftenError` in a flow run that was started more than `MOST_STARTS` times.

    The run then fails, and no automation starts it again.
    """
    count = int(flow_run.run_count or 0)
    if count > MOST_STARTS:
        raise KilledOftenError(
            f"this run was started {count} times and killed each time; see the worker's log (was "
            "memory short?), fix the cause, and start the deployment again: finished shards are in "
            "the store"
        )


def task_runner(compute: ComputeSettings) -> TaskRunner[Any]:
    """Return the Prefect task runner that the settings name; import Dask only if they name it.

    A Dask worker is one process with one thread, so that it can own a GPU and a model.
    """
    if compute.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=compute.workers)
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    if compute.runner == "dask-local":
        dask.config.set(_ONE_TASK_PER_WORKER | _KEEP_FREED_MEMORY | _NO_PAGES)
        return DaskTaskRunner(
            cluster_class="distributed.SpecCluster", cluster_kwargs=local_cluster(compute)
        )
    if compute.runner == "dask-kubernetes":
        return DaskTaskRunner(cluster_class=CLUSTER_CLASS, cluster_kwargs=_pods(compute))
    # without a scheme, Dask takes that of its setting distributed.comm.default-scheme: tcp or tls
    address = compute.runner.removeprefix("dask://")
    return DaskTaskRunner(address=address, client_kwargs={"timeout": SCHEDULER_SECONDS})


def _pods(compute: ComputeSettings) -> dict[str, Any]:
    """Return the arguments of a cluster on Kubernetes, whose workers no other run shares."""
    require_dask_kubernetes()
    return {
        "custom_cluster_spec": dask_cluster(compute, name=f"segmint-{uuid4().hex[:8]}"),
        "namespace": compute.kubernetes.namespace,
        "quiet": True,
    }


def local_cluster(compute: ComputeSettings) -> dict[str, Any]:
    """Return the arguments of a `SpecCluster` on this machine.

    It has one worker per GPU, which sees that GPU alone, and `compute.workers` that see none. Every
    user of the machine can reach its ports, but nobody can connect without this run's key. Its
    folder is this user's alone, because workers import and unpickle what lies in it.
    """
    from distributed import Scheduler, Security

    security = Security.temporary()  # type: ignore[no-untyped-call]
    common = {"host": _LOOPBACK, "security": security, "local_directory": str(own_folder("dask"))}
    workers = {f"gpu-{index}": _local_worker(compute, index) for index in range(compute.gpus)}
    workers |= {f"cpu-{index}": _local_worker(compute, None) for index in range(compute.workers)}
    for worker in workers.values():
        worker["options"] |= common
    # Port 0, because runs side by side would want the same port for Dask's own pages.
    options = {"protocol": "tls://", "dashboard": False, "dashboard_address": f"{_LOOPBACK}:0"}
    scheduler = {"cls": Scheduler, "options": options | common}
    return {"workers": workers, "scheduler": scheduler, "security": security}


def _local_worker(compute: ComputeSettings, gpu: int | None) -> dict[str, Any]:
    from distributed import Nanny

    options: dict[str, Any] = {"nthreads": 1, "resources": {} if gpu is None else {"GPU": 1}}
    visible = "" if gpu is None else str(gpu)
    options["env"] = {"CUDA_VISIBLE_DEVICES": visible} if compute.gpus else {}
    return {"cls": Nanny, "options": options}


def gpu_work(compute: ComputeSettings) -> AbstractContextManager[Any]:
    """Return a context in which submitted tasks run on workers that offer a GPU.

    It changes nothing if `compute.gpus` is 0.
    """
    if not compute.gpus:
        return nullcontext()
    from dask.base import annotate

    return annotate(resources={"GPU": 1})


@contextmanager
def gpu_slot(compute: ComputeSettings, gpus: int = 1) -> Iterator[None]:
    """Hold a slot per GPU of the settings' concurrency limit, so that runs do not share a GPU.

    Raises `SettingsError` if the limit has fewer slots. Waits `SERVER_SECONDS` for a server that
    does not answer. A server that has lost the slot, or that does not answer when it is released,
    stops no shard.
    """
    slot = ExitStack()
    if compute.limit:
        _take(slot, compute.limit, gpus)
    try:
        yield
    finally:
        with suppress(httpx.HTTPError):  # Prefect frees a slot five minutes after the last renewal
            slot.close()


def _take(slot: ExitStack, limit: str, gpus: int) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        try:
            slot.enter_context(
                concurrency(limit, occupy=gpus, strict=True, raise_on_lease_renewal_failure=False)
            )
            return
        except ConcurrencySlotAcquisitionError as error:
            refusal = error.__cause__
            if isinstance(refusal, httpx.HTTPStatusError) and refusal.response.status_code == 422:
                raise SettingsError(
                    f"train.gpus is {gpus}, more than the slots of compute.limit {limit!r}; lower "
                    f"it, or run `prefect gcl update {limit} --limit {gpus}`"
                ) from None
            if not isinstance(error.__cause__, httpx.TransportError) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def hear_workers(listener: Callable[[dict[str, Any]], None]) -> None:
    """Call `listener`, in another thread, with every message that this flow's tasks send from
    Dask's workers, until the flow ends.

    Does nothing without Dask. Runs that share a scheduler do not hear each other.
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
    """Send `message()`, which msgpack can encode, to the flow of this task.

    Does nothing outside a Dask worker.
    """
    worker = dask_worker()
    context = TaskRunContext.get()
    if worker is None or context is None:
        return
    worker.log_event(_TOPIC, {"flow_run": str(context.task_run.flow_run_id), "told": message()})
