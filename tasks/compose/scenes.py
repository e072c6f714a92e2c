"""Compose: rows that the plan calls composed → scenes of several instances, made of what other rows
generated.

Free-Mask's composition: objects of single-object rows on the image of a row without objects; or,
for a share of the rows, DiffuMask's splicing of such images. Sources are what `select` kept. The
plan names them; one that is no good is replaced by the next in an order drawn from the row's seed,
so a scene depends on its seed and sources alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.blocks import open_store
from infra.settings import Settings
from infra.store import Marker, ShardReader, Store, read_marker, write_shard
from models.scenes import IGNORE, Cutout, choose_grid, compose_scene, cut_objects, splice
from tasks.compose.sources import Pool, Rows, Source, rows_of
from tasks.plan.table import Plan
from tasks.run.progress import Report
from tasks.run.stages import over_shards

__all__ = ["Composed", "compose", "compose_row", "compose_shard"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Composed:
    """Image (H, W, 3), label and instance map (H, W), uint8; the sources, and JSON-ready provenance
    of each object.
    """

    image: Bytes
    label: Bytes
    instance: Bytes
    layout: str
    sources: tuple[Source, ...]
    objects: list[dict[str, Any]]


def compose_row(
    sources: list[int],
    seed: int,
    pool: Pool,
    ids: Mapping[str, int],
    size: tuple[int, int],
    *,
    spliced: float,
) -> Composed:
    """The scene of a row: `sources` are its ground's row and one row for each object, far to near.

    `ids` gives the label value of each class, `size` the (H, W) of all images; `spliced` is the
    chance of a mosaic. If no source is good, the image is black and the label all 255, which
    `select` rejects.
    """
    rng = np.random.default_rng(seed)
    make = _mosaic if rng.random() < spliced else _scene
    return make(sources, pool, ids, size, rng) or _nothing(size)


def _scene(
    sources: list[int],
    pool: Pool,
    ids: Mapping[str, int],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Composed | None:
    ground = next(pool.good(sources[0], rng), None)
    found = [_object(row, pool, ids[pool.class_of(row)], rng) for row in sources[1:]]
    objects = [pair for pair in found if pair]
    if ground is None or not objects:
        return None
    scene = compose_scene(ground.image, ground.label, [cutout for _, cutout in objects], rng)
    things = [asdict(thing) | {"source": objects[thing.source][0].id} for thing in scene.objects]
    used = (ground, *(source for source, _ in objects))
    return Composed(scene.image, scene.label, scene.instance, "scene", used, things)


def _object(
    row: int, pool: Pool, class_id: int, rng: np.random.Generator
) -> tuple[Source, Cutout] | None:
    """The largest object of that class of the first good source that has one to cut out."""
    for source in pool.good(row, rng):
        for cutout in cut_objects(source.image, source.label, [class_id]):
            return source, cutout
    return None


def _mosaic(
    sources: list[int],
    pool: Pool,
    ids: Mapping[str, int],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Composed | None:
    """Tiles of the row's classes, in turn, then its ground, and so on; each class's next source
    every time.
    """
    grid = choose_grid(rng, size)
    *objects, grounds = (list(pool.good(row, rng)) for row in [*sources[1:], sources[0]])
    if not any(objects):
        return None
    queues = [queue for queue in (*objects, grounds) if queue]
    turns = [divmod(tile, len(queues)) for tile in range(grid[0] * grid[1])]
    inside = [queues[which][turn % len(queues[which])] for turn, which in turns]
    tiles = [inside[index] for index in rng.permutation(len(inside))]
    image, label, instance = splice([s.image for s in tiles], [s.label for s in tiles], grid, size)
    things = [{"source": s.id, "tile": list(divmod(n, grid[1]))} for n, s in enumerate(tiles)]
    return Composed(image, label, instance, f"{grid[0]}x{grid[1]}", tuple(tiles), things)


def _nothing(size: tuple[int, int]) -> Composed:
    unsure = np.full(size, IGNORE, np.uint8)
    return Composed(np.zeros((*size, 3), np.uint8), unsure, unsure, "none", (), [])


def compose_table(rows: pd.DataFrame, scenes: list[Composed]) -> pd.DataFrame:
    """Columns of composed rows: `row`, `id`, `layout` ("scene", "2x2", …), `sources` (rows used),
    `objects` (JSON).

    With them `confidence` and `consistency`, those of the worst source with objects, 0 if there is
    none; `coverage` and `ignored`, shares of the image.
    """
    worst = [[s for s in scene.sources if _foreground(s.label)] for scene in scenes]
    return (
        rows[["row", "id"]]
        .reset_index(drop=True)
        .assign(
            layout=[scene.layout for scene in scenes],
            sources=[
                list(dict.fromkeys(source.row for source in scene.sources)) for scene in scenes
            ],
            objects=[json.dumps(scene.objects) for scene in scenes],
            confidence=[min((s.confidence for s in sources), default=0.0) for sources in worst],
            consistency=[min((s.consistency for s in sources), default=0.0) for sources in worst],
            coverage=[_foreground(s.label) for s in scenes],
            ignored=[float(np.mean(s.label == IGNORE)) for s in scenes],
        )
    )


def _foreground(label: Bytes) -> float:
    return float(np.mean((label > 0) & (label < IGNORE)))


class _Generated:
    """The generated samples of a run, read from the store one by one."""

    def __init__(self, store: Store, run: str, rows: Rows) -> None:
        self._store, self._run, self._rows = store, run, rows
        self._shard = cache(self._open)

    def _open(self, shard: int) -> tuple[ShardReader, ShardReader, pd.DataFrame]:
        """Readers of a shard's images and labels, and `select`'s verdicts by row."""
        images, labels, verdicts = (
            ShardReader(self._store, f"{self._run}/{stage}/{shard:05d}")
            for stage in ("synthesize", "refine", "select")
        )
        table = self._store.read_table(f"{self._run}/select/{shard:05d}.parquet").set_index("row")
        return images, verdicts if "label" in verdicts.fields else labels, table

    def load(self, row: int) -> Source | None:
        """The sample of that row; None if `select` rejected it."""
        images, labels, verdicts = self._shard(self._rows.shard_of(row))
        verdict = verdicts.loc[row]
        if not verdict["keep"]:
            return None
        index, scores = (
            images.ids.index(verdict["id"]),
            (float(verdict["confidence"]), float(verdict["consistency"])),
        )
        return Source(
            int(row),
            str(verdict["id"]),
            images.read("image", index),
            labels.read("label", index),
            *scores,
        )

    def size(self) -> tuple[int, int]:
        """Height and width of the run's images."""
        images, _, _ = self._shard(self._rows.shard_of(0))
        _, height, width, _ = images.marker.fields["image"].shape
        return height, width


def compose_shard(settings: Settings, shard: int) -> Marker:
    """Make one shard's scenes, unless they are in the store; all its sources have to be selected."""
    store, run = open_store(settings.store), f"runs/{settings.name}"
    path = f"{run}/compose/{shard:05d}"
    if (marker := read_marker(store, path)) is not None:
        return marker
    start = time.monotonic()
    plan, vocabulary = Plan(store, settings), settings.load_vocabulary()
    rows, planned = plan.of_shard(shard), rows_of(plan, vocabulary.names)
    generated, ids = _Generated(store, run, planned), vocabulary.ids
    pool, size, scenes = Pool(planned, cache(generated.load)), generated.size(), []
    with Report("compose", f"{shard:05d}", len(rows)) as report:
        for sources, seed in zip(rows["sources"], rows["seed"], strict=True):
            scenes.append(
                compose_row(
                    list(sources), int(seed), pool, ids, size, spliced=settings.compose.spliced
                )
            )
            report(1)
    arrays = {
        field: np.stack([getattr(scene, field) for scene in scenes])
        for field in ("image", "label", "instance")
    }
    stats = {"scenes": len(scenes), "objects": sum(len(scene.objects) for scene in scenes)}
    return write_shard(
        store, path, arrays, compose_table(rows, scenes), stats, time.monotonic() - start
    )


compose = over_shards("compose", compose_shard)
