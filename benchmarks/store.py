"""The sharded store against plain files: writing, reading whole, and single samples at random.

The same samples are stored in two ways at the same location:

- plain PUT writes the same files as the store, one after another, each atomic and synced to disk;
  plain GET reads them into memory and decodes nothing;
- PNG files, or PNG objects in a bucket, hold the same images and labels.

Everything is read from the page cache, which favours the plain ways. In a bucket every sample is
read once, in random order, in batches that are requested at once; the store reads as for a
training, which fetches whole shards and keeps them. Reading one sample at a time and keeping none
is printed but not claimed: there both make the same requests.

Contenders take turns; the median of the rounds counts, and the worse image size. The store computes
checksums and compression beside its transfers, so run this on an idle machine.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.claims import CACHE, Claim, Size, run
from infra.store import (
    SegmentationDataset,
    ShardReader,
    Store,
    publish_version,
    read_shard,
    write_shard,
)
from tasks.train.train import KEPT

SAMPLES = {128: 2048, 512: 128}  # image side in pixels: samples per shard, 100 MB
ROUNDS = 25
RANDOM_READS = 200
PNGS = 128  # files of each kind; the store reads the same samples of the shard
BATCH = 16  # samples that a training requests at once
Samples = tuple[dict[str, np.ndarray], pd.DataFrame]
Times = dict[str, list[float]]


def scenes(count: int, side: int) -> Samples:
    """Return images like small photographs and their labels: three discs on a shaded background
    with sensor noise.
    """
    random = np.random.default_rng(side)
    y, x = np.mgrid[:side, :side]
    image = np.empty((count, side, side, 3), np.uint8)
    label = np.zeros((count, side, side), np.uint8)
    for row in range(count):
        waves = np.sin(x / random.uniform(8, 40)) + np.cos(y / random.uniform(8, 40))
        pixels = (128 + 40 * waves)[..., None] * random.uniform(0.6, 1.2, 3)
        for _ in range(3):
            centre = random.uniform(0, side, 2)
            radius = random.uniform(side / 10, side / 3)
            disc = np.hypot(x - centre[0], y - centre[1]) < radius
            label[row][disc] = random.integers(1, 11)
            pixels[disc] = pixels[disc] / 2 + random.uniform(0, 128, 3)
        image[row] = np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255)
    ids = [f"{row:08d}" for row in range(count)]
    return {"image": image, "label": label}, pd.DataFrame(
        {"id": ids, "prompt": "a small red car on wet sand"}
    )


def main(size: Size) -> list[Claim]:
    counts = {128: 64, 512: 8} if size == "quick" else SAMPLES
    rounds = 2 if size == "quick" else ROUNDS
    worst: dict[str, float] = {}
    for place, store in places(size):
        for side, count in counts.items():
            samples = scenes(count, side)
            ratios = transfers(store, samples, rounds)
            reads = random_reads if place == "folder" else random_requests
            ratios["random"] = reads(store, samples, rounds)
            for name, ratio in ratios.items():
                key = f"{name}, {place}"
                worst[key] = min(ratio, worst.get(key, np.inf))
                print(f"{key}, {side}x{side}: {ratio:.2f}", flush=True)
            store.delete("runs")
            store.delete("versions")
    return [Claim(f"store / plain: {key}", worst[key], mark(key)) for key in sorted(worst)]


def mark(key: str) -> str:
    return ">= 2" if key.startswith("random") else ">= 0.8"


def places(size: Size) -> Iterator[tuple[str, Store]]:
    """Yield a folder and, unless quick, a bucket of a real S3 server on this machine."""
    folder = CACHE / "store-speed"  # not the store of `benchmarks.night`
    shutil.rmtree(folder, ignore_errors=True)
    yield "folder", Store.open(str(folder))
    shutil.rmtree(folder)
    if size != "quick":
        with bucket() as store:
            yield "bucket", store


@contextmanager
def bucket() -> Iterator[Store]:
    from testbed.swift import Swift

    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        server = Swift(Path(folder).resolve())
        server.start()
        try:
            fresh = server.new_bucket()
            yield Store.open(fresh.url, fresh.options)
        finally:
            server.stop()


def transfers(store: Store, samples: Samples, rounds: int) -> dict[str, float]:
    """Return the time of plain PUT over the store's, and of plain GET, for one whole shard."""
    marker = write_shard(store, "runs/a/refine/00000", *samples)
    names = [*marker.files, ".json"]
    files = {name: store.read_bytes(f"runs/a/refine/00000{name}") for name in names}

    def put(path: str) -> None:
        for name in names:
            store.place.put(path + name, [files[name]])

    def get() -> list[bytes]:
        return [store.read_bytes(f"runs/a/refine/00000{name}") for name in names]

    def write(path: str) -> None:
        write_shard(store, path, *samples)

    written = writing(store, {"store": write, "plain": put}, rounds)
    read = turns({"store": lambda: read_shard(store, "runs/a/refine/00000"), "plain": get}, rounds)
    return {"write": ratio("write", written), "read": ratio("read", read)}


def writing(store: Store, contenders: Mapping[str, Callable[[str], object]], rounds: int) -> Times:
    times: Times = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            os.sync()  # so that none waits for bytes that another wrote
            times[name].append(seconds(partial(contenders[name], "runs/b/refine/00000")))
            os.sync()
            store.delete("runs/b/refine")
    return times


def random_reads(store: Store, samples: Samples, rounds: int) -> float:
    """Return PIL's time over the store's for reading image and label of samples drawn at random."""
    arrays, table = samples
    folder = Path(store.url, "runs", "png")
    folder.mkdir(parents=True)
    count = min(PNGS, len(table))
    for row in range(count):
        Image.fromarray(arrays["image"][row]).save(folder / f"{row}.png")
        Image.fromarray(arrays["label"][row]).save(folder / f"{row}-label.png")
    reader = ShardReader(store, "runs/a/refine/00000")
    rows = np.random.default_rng(0).integers(0, count, RANDOM_READS).tolist()

    def from_png() -> None:
        for row in rows:
            for path in (folder / f"{row}.png", folder / f"{row}-label.png"):
                with Image.open(path) as image:
                    np.array(image)

    def from_shard() -> None:
        for row in rows:
            reader.sample(row)

    return ratio("random", turns({"store": from_shard, "plain": from_png}, rounds))


def random_requests(store: Store, samples: Samples, rounds: int) -> float:
    """Return the time of PNG objects over the store's for reading every sample of a version once.

    Samples are read in random batches.
    """
    count = min(PNGS, len(samples[1]))
    side = samples[0]["label"].shape[-1]
    arrays = {field: array[:count] for field, array in samples[0].items()}
    shard = f"versions/speed-{side}/data/00000"
    write_shard(store, shard, arrays, samples[1][:count])
    publish_version(store, f"speed-{side}", shards=[shard], meta={})
    files = fsspec.filesystem("s3", **store.options)
    folder = f"{store.url.removeprefix('s3://')}/runs/png"
    put_pngs(files, folder, arrays)
    rows = np.random.default_rng(0).permutation(count).tolist()

    def from_png(size: int) -> None:
        for start in range(0, count, size):
            batch = rows[start : start + size]
            paths = [f"{folder}/{row}-{field}.png" for row in batch for field in arrays]
            # with more concurrency s3fs first requests sizes; so each file takes one GET
            for data in files.cat(paths, max_concurrency=1).values():
                np.array(Image.open(io.BytesIO(data)))

    def from_version(size: int, memory: int) -> None:
        dataset = SegmentationDataset(store.url, f"speed-{side}", store.options, memory=memory)
        for start in range(0, count, size):
            dataset.__getitems__(rows[start : start + size])

    alone = {"store": lambda: from_version(1, memory=0), "plain": lambda: from_png(1)}
    one_by_one = ratio("random alone", turns(alone, max(1, rounds // 5)))
    print(f"random alone, bucket, {side}x{side}: {one_by_one:.2f}")
    batches = {"store": lambda: from_version(BATCH, memory=KEPT), "plain": lambda: from_png(BATCH)}
    return ratio("random", turns(batches, rounds))


def put_pngs(files: Any, folder: str, arrays: dict[str, np.ndarray]) -> None:
    """Store each row of each array as a PNG object."""
    for field, array in arrays.items():
        for row, pixels in enumerate(array):
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "png")
            files.pipe_file(f"{folder}/{row}-{field}.png", encoded.getvalue())


def turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    times: Times = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            times[name].append(seconds(contenders[name]))
    return times


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ratio(what: str, times: Times) -> float:
    """Print the times and return the plain way's median over the store's."""
    for name, values in times.items():
        fastest, middle = 1e3 * min(values), 1e3 * float(np.median(values))
        print(f"  {what}, {name}: fastest {fastest:.1f} ms, median {middle:.1f} ms")
    return float(np.median(times["plain"]) / np.median(times["store"]))


if __name__ == "__main__":
    run("store", main)
