"""What do ten million planned samples cost, and a store of a thousand versions, where only a few of
them are needed?

Measured are seconds, bytes read and memory:

- to plan the samples;
- for a shard's task to read its rows, and for a process that makes scenes to read its own;
- for the report, and for the ranking of noise learning, on a finished run of a tenth of them;
- to list the versions, and to open one of ten thousand shards;
- for the garbage collection to search everything.

Each is measured in a process of its own, on a folder. Memory is what is taken beyond the imports.
The versions are manifests; their shards do not exist, so nothing may read them. The finished run's
shards have tables and no arrays.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.fleet import in_process, peak
from infra.settings import RetentionSettings, SelectSettings, Settings
from infra.store import Manifest, SegmentationDataset, Store, list_versions, write_shard
from infra.store.folder import Folder
from infra.store.manifest import ShardSum
from infra.store.publications import append
from tasks.compose.sources import rows_of
from tasks.gc.collect import find_garbage
from tasks.plan.rows import start_run
from tasks.plan.table import Plan
from tasks.plan.tokens import load_tokenizer
from tasks.report.stored_run import read_stored_run
from tasks.select.noise_learning import rank
from tasks.select.ranking import read_ranking

SAMPLES = {"quick": 20_000, "default": 10_000_000, "full": 10_000_000}  # a tenth of them composed
VERSIONS = {"quick": 10, "default": 1_000, "full": 1_000}
# shards of the version that is opened, and of an unfinished run
SHARDS = {"quick": 100, "default": 10_000, "full": 10_000}
TASKS = 20  # shards that are read
DAY = 86_400.0
STATS = {"loss": {"1": 1.0}, "pixels": {"1": 9}}  # of every shard, as noise learning leaves them


def main(size: Size) -> list[Claim]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        found = {job: measured(job, folder, SAMPLES[size]) for job in ("plan", "read", "pool")}
        finish(folder, SAMPLES[size] // 10)
        found |= {job: measured(job, folder, SAMPLES[size] // 10) for job in ("report", "rank")}
        publish(Store.open(folder), VERSIONS[size], SHARDS[size])
        found |= {job: measured(job, folder, 0) for job in ("list", "open", "collect")}
    claims = [
        ("plan of ten million: minutes", found["plan"]["seconds"] / 60, "<= 10"),
        ("plan of ten million: MB of memory", found["plan"]["memory"], "<= 2000"),
        ("rows of one shard of it: ms", 1000 * found["read"]["seconds"], "<= 200"),
        ("rows of one shard of it: MB read", found["read"]["read"], "<= 4"),
        ("rows of one shard of it: MB of memory", found["read"]["memory"], "<= 200"),
        ("rows that scenes are made of, per process: seconds", found["pool"]["seconds"], "<= 15"),
        ("report on a finished million: MB of memory", found["report"]["memory"], "<= 400"),
        ("ranking of a finished million: MB of memory", found["rank"]["memory"], "<= 400"),
        ("list of a thousand versions: seconds", found["list"]["seconds"], "<= 3"),
        ("list of a thousand versions: MB read", found["list"]["read"], "<= 4"),
        ("version of ten thousand shards opened: seconds", found["open"]["seconds"], "<= 1"),
        ("gc that finds nothing: seconds", found["collect"]["seconds"], "<= 10"),
        ("gc that finds nothing: MB read", found["collect"]["read"], "<= 4"),
    ]
    return [Claim(*claim) for claim in claims]


def measured(job: str, folder: str, count: int) -> dict[str, float]:
    found: dict[str, float] = in_process("millions", job, folder, count)
    print(f"{job}: {found}", flush=True)
    return found


def night(url: str, count: int, name: str = "millions", **plan: int) -> Settings:
    """Return the settings of a run with `count` samples."""
    images, scenes = count * 9 // 10, count // 10
    return Settings(
        name=name, store={"url": url}, plan={**plan, "images": images}, compose={"images": scenes}
    )


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Measure seconds, MB read, reads and MB of memory of what is done in this context.

    The mapping is filled at its end.
    """
    found: dict[str, float] = {}
    read: list[int] = []
    get, fill = Folder.get, Folder.fill
    before = peak()
    begun = time.monotonic()

    def getting(self: Folder, path: str) -> bytes:
        data = get(self, path)
        read.append(len(data))
        return data

    def filling(self: Folder, pieces: Any) -> None:
        read.extend(len(buffer) for _, _, buffer in pieces)
        fill(self, pieces)

    Folder.get, Folder.fill = getting, filling  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Folder.get, Folder.fill = get, fill  # type: ignore[method-assign]
        seconds = time.monotonic() - begun
        found |= {
            "seconds": seconds,
            "read": sum(read) / 1e6,
            "reads": len(read),
            "memory": peak() - before,
        }


def plan(url: str, count: int) -> dict[str, float]:
    """Write the plan; its prompts are checked with the generator's tokenizer."""
    count_tokens, max_tokens = load_tokenizer("embedded")
    with counted() as found:
        start_run(
            Store.open(url), night(url, count), count_tokens=count_tokens, max_tokens=max_tokens
        )
    return found | {"size": Path(url, "runs/millions/plan.parquet").stat().st_size / 1e6}


def read(url: str, count: int) -> dict[str, float]:
    """Read the plan as the tasks of `TASKS` random shards do; return the mean per shard."""
    settings = night(url, count)
    store = Store.open(url)
    shards = random.Random(0).sample(Plan(store, settings).generated, TASKS)
    with counted() as found:
        for shard in shards:
            if len(Plan(store, settings).of_shard(shard)) == 0:
                raise RuntimeError(f"shard {shard} has no rows")
    return found | {name: found[name] / TASKS for name in ("seconds", "read", "reads")}


def pool(url: str, count: int) -> dict[str, float]:
    """Read the class of every row, as a process that makes scenes does."""
    settings = night(url, count)
    with counted() as found:
        rows_of(Plan(Store.open(url), settings), settings.load_vocabulary().names)
    return found


def finish(url: str, count: int) -> None:
    """Write the tables of a finished run's shards, noise learning included; a fifth is rejected."""
    settings = night(url, count, "finished", shard_size=1024)
    store = Store.open(url)
    count_tokens, max_tokens = load_tokenizer("embedded")
    start_run(store, settings, count_tokens=count_tokens, max_tokens=max_tokens)
    plan = Plan(store, settings)

    def stage(name: str, shard: int, rows: pd.DataFrame, **columns: Any) -> None:
        write_shard(store, f"runs/finished/{name}/{shard:05d}", {}, rows.assign(**columns), STATS)

    for shard in (*plan.generated, *plan.composed):
        rows = plan.of_shard(shard)[["row", "id"]].reset_index(drop=True)
        keep = rows["row"] % 5 > 0
        label = {"confidence": 0.9, "consistency": 0.9}
        if shard in plan.composed:
            stage("compose", shard, rows, **label)
        else:
            stage("synthesize", shard, rows)
            stage("refine", shard, rows, **label)
            stage("screen", shard, rows, keep=keep)
            stage("hold-out", shard, rows[keep], agreement=0.9, quality=random.random())
        reason = keep.map({True: "", False: "area"})
        stage("select", shard, rows, keep=keep, reason=reason, score=0.5)


def reported(url: str, _: int) -> dict[str, float]:
    """Count and pick what the report of a finished run shows."""
    with counted() as found:
        counts = read_stored_run(Store.open(url), "finished").counts
    return found | {"samples": counts.whole.planned, "kept": counts.whole.kept}


def ranked(url: str, count: int) -> dict[str, float]:
    """Find the thresholds of a finished run's classes."""
    settings = night(url, count, "finished", shard_size=1024)
    settings = settings.model_copy(update={"select": SelectSettings(folds=2, keep="auto")})
    with counted() as found:
        rank.fn(settings)
    return found | {"bars": len(read_ranking(Store.open(url), "runs/finished").bars)}


def publish(store: Store, versions: int, shards: int) -> None:
    """Publish `versions` versions of a tenth of the shards and one of all; begin a run of all."""
    for number in range(versions + 1):
        name = f"night-{number:04d}-0123abcd"
        count = shards if number == versions else shards // 10
        names = [f"{shard:05d}-0123abcd" for shard in range(count)]
        path = f"versions/{name}/data/{names[0]}"
        first = write_shard(store, path, {}, pd.DataFrame({"id": ["00000000"]}))
        sums = dict.fromkeys(names, ShardSum.of(first))
        meta = {"run": f"night-{number:04d}", "identity": "0123abcd" * 8, "classes": {"car": 1}}
        append(store, Manifest(name, "2026-01-01T00:00:00+00:00", sums, {}, meta, number + 1))
    run = Path(store.url, "runs/unfinished/synthesize")
    run.mkdir(parents=True)
    store.write_json("runs/unfinished/settings.json", {})
    for shard in range(shards):
        (run / f"{shard:05d}.json").touch()


def listed(url: str, _: int) -> dict[str, float]:
    with counted() as found:
        versions = list_versions(Store.open(url))
    return found | {"versions": len(versions)}


def opened(url: str, _: int) -> dict[str, float]:
    """Open the newest version and count its samples."""
    version = list_versions(Store.open(url))[-1].version
    with counted() as found:
        samples = len(SegmentationDataset(url, version))
    return found | {"samples": samples}


def collected(url: str, _: int) -> dict[str, float]:
    """Collect garbage where nothing is any: all versions are kept, and one run is under way."""
    kept = RetentionSettings(versions=1, days=10_000, run_days=0, abandoned_days=1)
    with counted() as found:
        garbage = find_garbage(Store.open(url), kept, time.time() + DAY / 2).garbage
    return found | {"garbage": len(garbage)}


JOBS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "plan": plan,
    "read": read,
    "pool": pool,
    "report": reported,
    "rank": ranked,
    "list": listed,
    "open": opened,
    "collect": collected,
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in JOBS:
        print(json.dumps(JOBS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
    else:
        run("millions", main)
