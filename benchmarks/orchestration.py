"""What do Prefect and Dask add to a run? Shards of half a minute on two workers, against a bare
loop over two processes.

Every shard passes through four stages. The first does 30 s of work, the others write a row. Both
contenders run the same code into a folder, and both are timed from before their processes start
until the last shard is stored. The flow starts a Dask cluster of two workers and reports every task
to a Prefect server on PostgreSQL, as real runs do.

There are two kinds of work. A shard that "waits" leaves the processors free, as one on a GPU does.
A shard that "computes" takes a fixed number of checksums, as many as one of two busy processes
takes in that time. On two cores the server, its database and the scheduler then take their time
from the work, whereas a fleet runs them elsewhere. So the computing figure holds their whole cost,
and the waiting one only what cannot be moved elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from prefect import flow

from benchmarks.claims import Claim, Size, run
from benchmarks.fleet import in_process, servers
from infra.clusters import task_runner
from infra.settings import Settings
from tasks.publish.samples import version_of
from tasks.run.failures import Failures
from tasks.run.layout import shard_folders
from tasks.run.progress import Report
from tasks.run.shards import Made, Make, ShardJob, over_shards
from tasks.run.stages import Stages

SHARDS = {"quick": 4, "default": 40, "full": 40}
SECONDS = {"quick": 0.5, "default": 30.0, "full": 30.0}  # of work per shard
WORKERS = 2
STAGES = ("synthesize", "refine", "select", "publish-shards")
KIND = "BENCHMARK_KIND"  # environment variables, which workers inherit
AMOUNT = "BENCHMARK_AMOUNT"
BLOCK = bytes(1 << 20)  # that a checksum is taken of
TRIAL = 200  # checksums per process, to measure their time


def main(size: Size) -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as server:
        amounts = {"wait": SECONDS[size], "compute": sums_in(SECONDS[size])}
        ratios = {}
        for kind, amount in amounts.items():
            environment = {**server.environment, KIND: kind, AMOUNT: str(amount)}
            bare, night = (
                in_process(
                    "orchestration",
                    way,
                    f"{folder}/{kind}-{way}",
                    SHARDS[size],
                    environment=environment,
                )
                for way in ("bare", "night")
            )
            ratios[kind] = night["seconds"] / bare["seconds"]
            times = f"bare {bare['seconds']:.1f} s, night {night['seconds']:.1f} s"
            print(f"{kind}: {times}: {ratios[kind]:.3f}", flush=True)
    return [
        Claim(
            "night / bare loop, shards that leave the processors alone", ratios["wait"], "<= 1.05"
        ),
        Claim(
            "night / bare loop, shards that compute, the servers on the same two cores",
            ratios["compute"],
            "<= 1.05",
        ),
    ]


def sums_in(seconds: float) -> int:
    """Return how many checksums each of two processes takes in that time."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        taken = max(pool.map(timed_sums, [TRIAL] * WORKERS, chunksize=1))
    return max(1, round(TRIAL * seconds / taken))


def timed_sums(count: int) -> float:
    begun = time.monotonic()
    take_sums(count)
    return time.monotonic() - begun


def take_sums(count: int) -> None:
    for _ in range(count):
        hashlib.sha256(BLOCK)


def work() -> None:
    """Do the work of one shard."""
    amount = float(os.environ[AMOUNT])
    if os.environ[KIND] == "wait":
        time.sleep(amount)
    else:
        take_sums(round(amount))


def one_row(job: ShardJob) -> pd.DataFrame:
    """Return the only row of a shard; there is no plan."""
    return pd.DataFrame({"row": [job.shard], "id": [f"{job.shard:08d}"]})


def make(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    """Make a shard of one row and no array."""
    return Made({}, rows, {})


def make_after_work(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    """Do the work of a shard, then make it."""
    work()
    return make(job, rows, report)


def published(job: ShardJob) -> str:
    """Return the path of a shard in the version."""
    folders = shard_folders(job.settings.name, version_of(job.settings))
    return f"{folders['publish-shards']}/{job.name}"


MAKE: dict[str, Make] = {STAGES[0]: make_after_work}
TASKS = {
    stage: over_shards(
        stage,
        MAKE.get(stage, make),
        rows=one_row,
        path=published if stage == "publish-shards" else None,
    )
    for stage in STAGES
}


@flow(name="orchestration")
def make_shards(settings: Settings, shards: list[int]) -> Failures:
    """Submit all stages of all shards as the nightly flow does."""
    stages = Stages(settings, shards, alone=False)
    after = None
    for stage in STAGES:
        after = stages.each(TASKS[stage], shards, after)
    return stages.failures()


def night(settings: Settings, shards: list[int]) -> None:
    failed = make_shards.with_options(task_runner=task_runner(settings.compute))(settings, shards)
    if failed:
        raise RuntimeError(f"shards failed: {failed}")


def bare(settings: Settings, shards: list[int]) -> None:
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.starmap(make_all, [(settings, shard) for shard in shards], chunksize=1)


def make_all(settings: Settings, shard: int) -> None:
    """Run all stages of one shard."""
    for stage in STAGES:
        TASKS[stage].shard(settings, shard)


WAYS = {"bare": bare, "night": night}


def timed(way: str, url: str, count: int) -> dict[str, float]:
    settings = Settings(
        name="orchestration",
        store={"url": url},
        compute={"runner": "dask-local", "workers": WORKERS},
    )
    begun = time.monotonic()
    WAYS[way](settings, list(range(count)))
    return {"seconds": time.monotonic() - begun}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        from benchmarks import orchestration  # by its name, which workers know, unlike __main__

        print(json.dumps(orchestration.timed(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    else:
        run("orchestration", main)
