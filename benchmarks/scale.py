"""What do ten thousand shards cost beside their work? Time per shard, the flow's memory, and the
start of a resumed run.

Prefect's server runs on PostgreSQL, shards go to two Dask workers, and the resumed run's store is
Swift. The shards are empty: a task writes one row without arrays. The cost of ten million planned
samples is measured by `benchmarks.millions`, which can be run by itself.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from prefect import flow

from benchmarks import millions
from benchmarks.claims import Claim, Size, run
from benchmarks.fleet import in_process, peak, servers
from infra.clusters import task_runner
from infra.settings import Settings
from infra.store import Store
from tasks.plan.prepare import prepare
from tasks.publish.samples import version_of
from tasks.run.failures import Failures
from tasks.run.layout import shard_folders
from tasks.run.progress import Event, Report, listening
from tasks.run.shards import Made, ShardJob, over_shards
from tasks.run.stages import Stages
from testbed.fleet import Prefect
from testbed.swift import Swift

MANY = {"quick": 40, "default": 10_000, "full": 10_000}  # shards
FEW = {"quick": 20, "default": 1_000, "full": 1_000}
LEFT = 10  # unfinished shards of the resumed run


def one_row(job: ShardJob) -> pd.DataFrame:
    """Return the only row of a shard; there is no plan."""
    return pd.DataFrame({"row": [job.shard], "id": [f"{job.shard:08d}"]})


def make_one(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    """Make a shard of one row and no array."""
    return Made({}, rows, {})


nothing = over_shards("synthesize", make_one, rows=one_row)


@flow(name="nothing")
def make_nothing(settings: Settings, shards: list[int]) -> Failures:
    """Submit one stage of all shards."""
    stages = Stages(settings, shards, alone=False)
    stages.each(nothing, shards)
    return stages.failures()


def main(size: Size) -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as server:
        few, many = (
            in_process("scale", "nothing", f"{folder}/{n}", n, environment=server.environment)
            for n in (FEW[size], MANY[size])
        )
        print(f"{FEW[size]} shards: {few}\n{MANY[size]} shards: {many}")
        overhead = (many["seconds"] - few["seconds"]) / (MANY[size] - FEW[size])
        resumed = resume(server, Path(folder), MANY[size])
    return [
        Claim("overhead per shard, ms", 1000 * overhead, "<= 50"),
        Claim(
            "flow's memory against that of a tenth of the shards",
            many["peak"] / few["peak"],
            "<= 1.2",
        ),
        Claim("resumed run on S3: seconds until the first new shard starts", resumed, "<= 30"),
        *millions.main(size),
    ]


def run_nothing(url: str, count: int) -> dict[str, float]:
    """Make `count` empty shards; return the seconds, and the peak memory in MB."""
    settings = Settings(
        name="scale", store={"url": url}, compute={"runner": "dask-local", "workers": 2}
    )
    begun = time.monotonic()
    failed = make_nothing.with_options(task_runner=task_runner(settings.compute))(
        settings, list(range(count))
    )
    if failed:
        raise RuntimeError(f"shards failed: {failed}")
    return {"seconds": time.monotonic() - begun, "peak": peak()}


def resume(server: Prefect, folder: Path, count: int) -> float:
    """Return the seconds from the start of a run until its first shard begins.

    All its shards but `LEFT` are finished.
    """
    (folder / "swift").mkdir()
    swift = Swift(folder / "swift")
    swift.start()
    try:
        url = swift.new_bucket().url
        environment = {**server.environment, **swift.environment}
        in_process("scale", "pretend", url, count, environment=environment)
        return float(in_process("scale", "resume", url, count, environment=environment)["seconds"])
    finally:
        swift.stop()


def night(url: str, count: int) -> Settings:
    """Return the settings of a run with `count` shards of one image."""
    return Settings(name="scale", store={"url": url}, plan={"images": count, "shard_size": 1})


def pretend(url: str, count: int) -> dict[str, int]:
    """Write the plan, and markers of all but the last shards.

    The markers are empty, since a resumed run looks at their names only.
    """
    settings, shards = prepare.fn(night(url, count))
    store = Store.open(url)
    marker = b"{}"
    folders = shard_folders(settings.name, version_of(settings))
    stages = ("synthesize", "refine", "select", "publish-shards")
    paths = [
        f"{folders[stage]}/{shard:05d}.json" for stage in stages for shard in shards.all[:-LEFT]
    ]
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda path: store.write_bytes(path, marker), paths):
            pass
    return {"written": len(paths)}


def run_resumed(url: str, count: int) -> dict[str, float]:
    """Start the run, print the seconds when the first shard begins, and exit."""
    from flows.nightly import nightly

    begun = time.monotonic()

    def leave(event: Event) -> None:
        if event.stage == "synthesize" and event.name:
            print(json.dumps({"seconds": time.monotonic() - begun}), flush=True)
            os._exit(0)

    with listening(leave):
        nightly(night(url, count))  # with threads, whose events are heard in this process
    raise RuntimeError("no shard was left")


if __name__ == "__main__":
    jobs = {"nothing": run_nothing, "pretend": pretend, "resume": run_resumed}
    if sys.argv[1:2] and sys.argv[1] in jobs:
        print(json.dumps(jobs[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
    else:
        run("scale", main)
