"""Task runners: how Dask's workers are configured, and which of them gets a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from infra.clusters import MOST_STARTS, KilledOftenError, check_starts
from infra.settings import ComputeSettings, Settings, SettingsError

# Runs in a process of its own, because Dask leaves sockets open and Python warns of them.
SCRIPT = """
import json, os, sys
from distributed import Client, SpecCluster
from infra.clusters import gpu_work, task_runner
from infra.settings import ComputeSettings

if __name__ == "__main__":
    compute = ComputeSettings.model_validate_json(sys.argv[1])
    runner = task_runner(compute)
    with SpecCluster(**runner.cluster_kwargs) as cluster, Client(cluster) as client:
        client.wait_for_workers(compute.workers + compute.gpus)
        found = client.run(lambda dask_worker: [dask_worker.state.nthreads, dict(os.environ)])
        workers = client.scheduler_info(n_workers=-1)["workers"]
        named = {workers[address]["name"]: value for address, value in found.items()}
        visible = lambda n: os.environ.get("CUDA_VISIBLE_DEVICES")
        with gpu_work(compute):
            seen = [client.submit(visible, n, pure=False) for n in range(8)]
        print(json.dumps([named, client.gather(seen)]))
"""


def cluster_of(**compute: Any) -> tuple[dict[str, tuple[int, dict[str, str]]], list[str | None]]:
    """Return threads and environment of each worker, and the GPUs that eight GPU tasks saw."""
    settings = ComputeSettings(runner="dask-local", **compute).model_dump_json()
    command = [sys.executable, "-c", SCRIPT, settings]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    workers, seen = json.loads(out.splitlines()[-1])
    return workers, seen


@pytest.mark.server
def test_local_dask_workers_keep_freed_memory_and_have_one_thread() -> None:
    workers, _ = cluster_of(workers=2)
    assert workers.keys() == {"cpu-0", "cpu-1"}
    for threads, environment in workers.values():
        assert threads == 1 and environment["OMP_NUM_THREADS"] == "1"
        assert "MALLOC_TRIM_THRESHOLD_" not in environment


@pytest.mark.server
def test_every_gpu_has_a_worker_of_its_own_and_work_for_gpus_goes_nowhere_else() -> None:
    workers, seen = cluster_of(workers=1, gpus=2)
    visible = {
        name: environment["CUDA_VISIBLE_DEVICES"] for name, (_, environment) in workers.items()
    }
    assert visible == {"gpu-0": "0", "gpu-1": "1", "cpu-0": ""}
    assert set(seen) <= {"0", "1"}


def test_threads_cannot_own_gpus() -> None:
    with pytest.raises(
        SettingsError, match=r"compute.*gpus is 2, but threads share one process and one GPU"
    ):
        Settings(compute={"gpus": 2})


def test_a_run_that_is_killed_again_and_again_fails_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_starts()
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(MOST_STARTS))
    check_starts()
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(MOST_STARTS + 1))
    with pytest.raises(
        KilledOftenError, match=r"started 11 times and killed each time; see the worker's log"
    ):
        check_starts()
