"""Does loading from a bucket keep up with training, when worker processes load the data?

The default segmenter is trained by the default recipe, in the precision that its probe chooses,
from a bucket of a real S3 server and from tensors in memory, with as many loading processes. The
two take turns. What counts is the median time per step; the first steps are left out, while
processes start and the bucket's shards are fetched. The best number of workers counts. Loading
processes, the S3 server and the training share this machine's cores: run it on an idle machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.store import bucket, scenes
from benchmarks.trainings import InMemory, recipe_for
from infra.store import SegmentationDataset, Store, publish_version, write_shard
from models.segmenters import Execution, TrainingRecipe, train_segmenter
from tasks.train.train import KEPT

CLASSES = ("background", *(f"disc {number}" for number in range(1, 11)))
SHARDS = 4
SAMPLES = {"quick": 32, "default": 1024, "full": 4096}
STEPS = {"quick": 6, "default": 120, "full": 1000}  # the time per step is the same in a longer one
ROUNDS = {"quick": 1, "default": 3, "full": 5}
EVERY = 5  # steps that a measured time is the mean of
LEFT_OUT = 4  # times at the start
WORKERS = (1, 2)


def main(size: Size) -> list[Claim]:
    with place(size) as store:
        samples = published(store, SAMPLES[size])
        contenders = {"memory": loaded(samples), "bucket": samples}
        recipe = probed(replace(recipe_for(size), steps=STEPS[size]), contenders["memory"])
        ratios = {workers: compared(contenders, workers, recipe, size) for workers in WORKERS}
    return [
        Claim("step time with data in memory / from the bucket", max(ratios.values()), ">= 0.95")
    ]


def loaded(samples: SegmentationDataset) -> InMemory:
    """Return the samples in memory, all of them read."""
    held = InMemory(samples)
    for index in range(len(held)):
        held[index]
    return held


def probed(recipe: TrainingRecipe, samples: Dataset[Any]) -> TrainingRecipe:
    """Return the recipe with the precision that a training probes, for all trainings to share."""
    trained = train_segmenter(samples, CLASSES, replace(recipe, steps=1))
    print(f"precision {trained.precision}", flush=True)
    return replace(recipe, precision=trained.precision)


@contextlib.contextmanager
def place(size: Size) -> Iterator[Store]:
    """Open a bucket; in a quick run, a folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if size != "quick":
            yield stack.enter_context(bucket())
        else:
            store = Store.open(str(CACHE / "loader"))
            stack.callback(store.delete, "versions")
            yield store


def published(store: Store, count: int) -> SegmentationDataset:
    arrays, table = scenes(count, 128)
    paths = [f"versions/loader/data/{shard:05d}" for shard in range(SHARDS)]
    for shard, path in enumerate(paths):
        write_shard(
            store,
            path,
            {field: array[shard::SHARDS] for field, array in arrays.items()},
            table[shard::SHARDS],
        )
    publish_version(store, "loader", shards=paths, meta={})
    return SegmentationDataset(store.url, "loader", store.options, memory=KEPT)


def compared(
    contenders: dict[str, Dataset[Any]], workers: int, recipe: TrainingRecipe, size: Size
) -> float:
    """Return the time per step from memory over that from the bucket."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS[size]):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            times[name] += step_seconds(contenders[name], workers, recipe, size)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    shown = ", ".join(f"{name} {seconds:.3f} s per step" for name, seconds in medians.items())
    print(f"{workers} workers: {shown}: {medians['memory'] / medians['bucket']:.3f}", flush=True)
    return medians["memory"] / medians["bucket"]


def step_seconds(
    samples: Dataset[Any], workers: int, recipe: TrainingRecipe, size: Size
) -> list[float]:
    """Train, and return times per step in seconds, each the mean of `EVERY`."""
    rows: list[dict[str, float]] = []
    execution = Execution(workers=workers, progress=rows.append, every=EVERY)
    train_segmenter(samples, CLASSES, recipe, execution)
    left_out = 0 if size == "quick" else LEFT_OUT
    return [recipe.batch_size / row["images_per_second"] for row in rows[left_out:]]


if __name__ == "__main__":
    run("loader", main)
