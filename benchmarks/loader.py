"""Does a loader with workers keep a SegFormer training at full speed, the published version being
in a bucket?

The default segmenter is trained by the same recipe, with as many loading processes, from a bucket
of a real S3 server and from tensors in memory. Both keep taking turns; what counts is the median
time of a step, the first ones left out, in which processes start and the bucket's shards come to be
kept. The best number of workers counts. Loading processes, the S3 server and the training share
this machine's cores: run it where nothing else does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.store import bucket, scenes
from infra.store import SegmentationDataset, Store, publish_version, write_shard
from models.segmenters import TrainingRecipe, train_segmenter
from tasks.train.train import KEPT

CLASSES = ("background", *(f"disc {number}" for number in range(1, 11)))
SHARDS = 4
SAMPLES, STEPS = (
    {"quick": 32, "default": 1024, "full": 4096},
    {"quick": 6, "default": 120, "full": 1000},
)
ROUNDS = {"quick": 1, "default": 3, "full": 5}
EVERY, LEFT_OUT = (
    5,
    4,
)  # steps that a measured time is the mean of; times that are left out at the start
WORKERS = (1, 2)


class InMemory(Dataset[dict[str, Any]]):
    """The items of a dataset, read once."""

    def __init__(self, samples: SegmentationDataset) -> None:
        self._items = [samples[index] for index in range(len(samples))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._items[index]


def main(size: Size) -> list[Claim]:
    with place(size) as store:
        samples = published(store, SAMPLES[size])
        contenders = {"memory": InMemory(samples), "bucket": samples}
        ratios = {workers: compared(contenders, workers, size) for workers in WORKERS}
    return [
        Claim("step time with data in memory / from the bucket", max(ratios.values()), ">= 0.95")
    ]


@contextlib.contextmanager
def place(size: Size) -> Iterator[Store]:
    """A bucket; if quick, a folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if size != "quick":
            yield stack.enter_context(bucket())
        else:
            store = Store.open(str(CACHE / "loader"))
            stack.callback(store.delete, "")
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


def compared(contenders: dict[str, Dataset[Any]], workers: int, size: Size) -> float:
    """Return the time of a step from memory over that from the bucket."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS[size]):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            times[name] += step_seconds(contenders[name], workers, size)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    shown = ", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in medians.items())
    print(f"{workers} workers: {shown}: {medians['memory'] / medians['bucket']:.3f}", flush=True)
    return medians["memory"] / medians["bucket"]


def step_seconds(samples: Dataset[Any], workers: int, size: Size) -> list[float]:
    """Train, and return times of a step, each the mean of `EVERY`."""
    recipe, rows = TrainingRecipe(steps=STEPS[size], precision="fp32"), list[dict[str, float]]()
    train_segmenter(samples, CLASSES, recipe, workers=workers, progress=rows.append, every=EVERY)
    left_out = 0 if size == "quick" else LEFT_OUT
    return [recipe.batch_size / row["images_per_second"] for row in rows[left_out:]]


if __name__ == "__main__":
    run("loader", main)
