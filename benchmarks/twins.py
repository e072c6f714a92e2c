"""Can two runs share a machine? The demo's run alone, then beside a twin of itself.

Each is a `segmint run` on a store of its own, started at the same moment: generation, labels,
scenes, publication, training and evaluation. On two cores a run alone uses both, so two that share
them without loss make as many images per second together as one alone.

The claim is on the stage that generates images: the seconds of its shards are in their markers, so
the start of the processes does not count. The whole run, its start included, is printed.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claims import CACHE, Claim, Size, run
from infra.store import Store, check_marker
from tasks.run.layout import stage_folder

NAME = "twin"
IMAGES = {"quick": 24, "default": 120, "full": 240}  # per run
SHARDS = {"quick": 2, "default": 3, "full": 6}
STEPS = {"quick": 2, "default": 100, "full": 400}  # of the training
ROUNDS = {"quick": 1, "default": 2, "full": 3}


@dataclass(frozen=True)
class Rates:
    """Images per second: of the stage that generates them, and of the whole run."""

    stage: float
    whole: float


def main(size: Size) -> list[Claim]:
    folder = CACHE / "twins"
    alone: list[Rates] = []
    together: list[Rates] = []
    for _ in range(ROUNDS[size]):  # in turns, so that both see the machine alike
        alone.append(measured(folder, 1, size))
        together.append(measured(folder, 2, size))
        print(f"alone {alone[-1]}, together {together[-1]}, images per second", flush=True)
    stage = statistics.median(each.stage for each in together) / statistics.median(
        each.stage for each in alone
    )
    whole = statistics.median(each.whole for each in together) / statistics.median(
        each.whole for each in alone
    )
    print(f"together over alone: generation {stage:.3f}, the whole run {whole:.3f}", flush=True)
    return [
        Claim("generation, images per second of two runs at once over one alone", stage, ">= 0.7"),
        Claim("the whole run, images per second of two at once over one alone", whole, ">= 0.7"),
    ]


def measured(folder: Path, count: int, size: Size) -> Rates:
    """Run `count` demos at once, on a store each; return the rates of all of them together."""
    shutil.rmtree(folder, ignore_errors=True)
    stores = [folder / str(number) for number in range(count)]
    begun = time.monotonic()
    runs = [subprocess.Popen(command(store, size), stdout=subprocess.DEVNULL) for store in stores]
    failed = [process.args for process in runs if process.wait()]
    seconds = time.monotonic() - begun
    if failed:
        raise RuntimeError(f"failed: {failed}")
    return Rates(sum(generation_rate(store) for store in stores), count * IMAGES[size] / seconds)


def command(store: Path, size: Size) -> list[str]:
    """Return the demo's command, on that store and with fewer images."""
    images, scenes = IMAGES[size], IMAGES[size] // 6
    changes = {
        "name": NAME,
        "store.url": store,
        "plan.images": images,
        "plan.shard_size": images // SHARDS[size],
        "compose.images": scenes,
        "train.steps": STEPS[size],
        "evaluate.images": images,
    }
    flags = [flag for field, value in changes.items() for flag in ("--set", f"{field}={value}")]
    return [sys.executable, "-m", "segmint", "run", "--config", "demo.toml", *flags]


def generation_rate(url: Path) -> float:
    """Return the images per second of a run's shards while they are generated."""
    store = Store.open(str(url))
    folder = stage_folder(NAME, "synthesize")
    names = [name.removesuffix(".json") for name in store.list(folder) if name.endswith(".json")]
    markers = [check_marker(store, f"{folder}/{name}") for name in names]
    return sum(len(marker.ids) for marker in markers) / sum(marker.seconds for marker in markers)


if __name__ == "__main__":
    run("twins", main)
