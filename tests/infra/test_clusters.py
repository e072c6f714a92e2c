"""The task runners start workers that are fit for long sums."""

import json
import subprocess
import sys

# in a process of its own: Dask leaves sockets open, of which Python warns
SCRIPT = """
import json, os
from distributed import Client, LocalCluster
from infra.clusters import task_runner
from infra.settings import ComputeSettings

if __name__ == "__main__":
    runner = task_runner(ComputeSettings(runner="dask-local", workers=1))
    with LocalCluster(**runner.cluster_kwargs) as cluster, Client(cluster) as client:
        (found,) = client.run(lambda: dict(os.environ)).values()
    print(json.dumps(found))
"""


def test_local_dask_workers_keep_freed_memory_and_have_one_thread() -> None:
    out = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    found = json.loads(out.splitlines()[-1])
    assert "MALLOC_TRIM_THRESHOLD_" not in found
    assert found["OMP_NUM_THREADS"] == "1"
