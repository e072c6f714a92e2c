"""What ten million planned samples, and a store of a thousand versions, cost whoever needs a little
of them.

Seconds, bytes and memory to plan them; for a shard's task, and for a scene's, to read its rows; for
the report, and noise learning's ranking, to go through a finished night of a tenth of them; to list
versions; to open a version of ten thousand shards; and for the garbage collection to look through
it all. Each is measured in a process of its own, on a folder. Memory is what was taken beyond that
after imports. Versions are manifests whose shards are names alone: nobody may look at them; the
finished night's shards have their tables, and no arrays.
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
from tasks.gc import find_garbage
from tasks.plan.rows import start_run
from tasks.plan.table import Plan
from tasks.plan.tokens import load_tokenizer
from tasks.report.stored_run import read_stored_run
from tasks.select.noise_learning import rank
from tasks.select.ranking import read_ranking

SAMPLES = {"quick": 20_000, "default": 10_000_000, "full": 10_000_000}  # a tenth of them composed
VERSIONS = {"quick": 10, "default": 1_000, "full": 1_000}
SHARDS = {
    "quick": 100,
    "default": 10_000,
    "full": 10_000,
}  # of the version that is opened, and of an unfinished run
TASKS = 20  # whose shards are read
DAY = 86_400.0
STATS = {"loss": {"1": 1.0}, "pixels": {"1": 9}}  # of every shard, as noise learning's have them


def main(size: Size) -> list[Claim]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        planned, read, scenes = (
            in_process("millions", job, folder, SAMPLES[size]) for job in ("plan", "read", "pool")
        )
        finish(folder, SAMPLES[size] // 10)
        counted_up, ranked = (
            in_process("millions", job, folder, SAMPLES[size] // 10) for job in ("report", "rank")
        )
        publish(Store.open(folder), VERSIONS[size], SHARDS[size])
        listed, opened, collected = (
            in_process("millions", job, folder, 0) for job in ("list", "open", "collect")
        )
    for name, found in locals().items():
        if isinstance(found, dict):
            print(f"{name}: {found}", flush=True)
    return [
        Claim("plan of ten million: minutes", planned["seconds"] / 60, "<= 10"),
        Claim("plan of ten million: MB of memory", planned["memory"], "<= 2000"),
        Claim("rows of one shard of it: ms", 1000 * read["seconds"], "<= 200"),
        Claim("rows of one shard of it: MB read", read["read"], "<= 4"),
        Claim("rows of one shard of it: MB of memory", read["memory"], "<= 200"),
        Claim("rows that scenes are made of, once a process: seconds", scenes["seconds"], "<= 15"),
        Claim("report on a finished million: MB of memory", counted_up["memory"], "<= 400"),
        Claim("ranking of a finished million: MB of memory", ranked["memory"], "<= 400"),
        Claim("list of a thousand versions: seconds", listed["seconds"], "<= 3"),
        Claim("list of a thousand versions: MB read", listed["read"], "<= 4"),
        Claim("version of ten thousand shards opened: seconds", opened["seconds"], "<= 1"),
        Claim("gc that finds nothing: seconds", collected["seconds"], "<= 10"),
        Claim("gc that finds nothing: MB read", collected["read"], "<= 4"),
    ]


def night(url: str, count: int, name: str = "millions", **plan: int) -> Settings:
    plan["images"] = count * 9 // 10
    return Settings(name=name, store={"url": url}, plan=plan, compose={"images": count // 10})


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Seconds, MB read, files opened and MB of memory of what is done in here; the mapping is
    filled at its end.
    """
    found, read = dict[str, float](), list[int]()
    get, fill, before, begun = Folder.get, Folder.fill, peak(), time.monotonic()

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
    """Write the plan, its prompts checked against the generator's tokenizer."""
    count_tokens, max_tokens = load_tokenizer("embedded")
    with counted() as found:
        start_run(
            Store.open(url), night(url, count), count_tokens=count_tokens, max_tokens=max_tokens
        )
    return found | {"size": Path(url, "runs/millions/plan.parquet").stat().st_size / 1e6}


def read(url: str, count: int) -> dict[str, float]:
    """What the tasks of some shards, drawn at random, read of the plan: the mean of them."""
    settings, store = night(url, count), Store.open(url)
    shards = random.Random(0).sample(Plan(store, settings).generated, TASKS)
    with counted() as found:
        for shard in shards:
            if len(Plan(store, settings).of_shard(shard)) == 0:
                raise RuntimeError(f"shard {shard} has no rows")
    return found | {name: found[name] / TASKS for name in ("seconds", "read", "reads")}


def pool(url: str, count: int) -> dict[str, float]:
    """What a process reads that makes scenes: the class of every row."""
    settings = night(url, count)
    with counted() as found:
        rows_of(Plan(Store.open(url), settings), settings.load_vocabulary().names)
    return found


def finish(url: str, count: int) -> None:
    """Write the tables of a night's shards as its stages leave them, those of noise learning too: a
    fifth rejected.
    """
    settings, store = night(url, count, "finished", shard_size=1024), Store.open(url)
    count_tokens, max_tokens = load_tokenizer("embedded")
    start_run(store, settings, count_tokens=count_tokens, max_tokens=max_tokens)
    plan = Plan(store, settings)

    def stage(name: str, shard: int, rows: pd.DataFrame, **columns: Any) -> None:
        write_shard(store, f"runs/finished/{name}/{shard:05d}", {}, rows.assign(**columns), STATS)

    for shard in (*plan.generated, *plan.composed):
        rows = plan.of_shard(shard)[["row", "id"]].reset_index(drop=True)
        keep, label = rows["row"] % 5 > 0, {"confidence": 0.9, "consistency": 0.9}
        if shard in plan.composed:
            stage("compose", shard, rows, **label)
        else:
            stage("synthesize", shard, rows)
            stage("refine", shard, rows, **label)
            stage("screen", shard, rows, keep=keep)
            stage("hold-out", shard, rows[keep], agreement=0.9, quality=random.random())
        stage(
            "select", shard, rows, keep=keep, reason=keep.map({True: "", False: "area"}), score=0.5
        )


def reported(url: str, _: int) -> dict[str, float]:
    """What the report counts and picks of a finished night."""
    with counted() as found:
        counts = read_stored_run(Store.open(url), "finished").counts
    return found | {"samples": counts.whole.planned, "kept": counts.whole.kept}


def ranked(url: str, count: int) -> dict[str, float]:
    """Find the bars of a finished night's classes."""
    settings = night(url, count, "finished", shard_size=1024)
    settings = settings.model_copy(update={"select": SelectSettings(folds=2, keep="auto")})
    with counted() as found:
        rank.fn(settings)
    return found | {"bars": len(read_ranking(Store.open(url), "runs/finished").bars)}


def publish(store: Store, versions: int, shards: int) -> None:
    """So many versions of a tenth of the shards, a last one of all, and a run of them that is not
    finished.
    """
    for number in range(versions + 1):
        name = f"night-{number:04d}-0123abcd"
        names = [
            f"{shard:05d}-0123abcd"
            for shard in range(shards if number == versions else shards // 10)
        ]
        first = write_shard(
            store, f"versions/{name}/data/{names[0]}", {}, pd.DataFrame({"id": ["00000000"]})
        )
        sums = dict.fromkeys(names, ShardSum.of(first))
        meta = {"run": f"night-{number:04d}", "identity": "0123abcd" * 8, "classes": {"car": 1}}
        append(store, Manifest(name, "2026-01-01T00:00:00+00:00", sums, {}, meta))
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
    """Open the newest version and find out how many samples it has."""
    version = list_versions(Store.open(url))[-1].version
    with counted() as found:
        samples = len(SegmentationDataset(url, version))
    return found | {"samples": samples}


def collected(url: str, _: int) -> dict[str, float]:
    """What may go of versions that are all kept, of runs that are gone, and of one that is under
    way.
    """
    kept = RetentionSettings(versions=1, days=10_000, run_days=0, abandoned_days=1)
    with counted() as found:
        garbage = find_garbage(Store.open(url), kept, time.time() + DAY / 2)
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
