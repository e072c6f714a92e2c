"""Compose: planned composed rows → scenes of several instances, made of generated samples.

A scene pastes objects of single-object rows on the image of a row without objects (Free-Mask). A
share of the rows are mosaics of such images instead (DiffuMask's splicing). Sources are samples
that `select` kept. The plan names them. A source that was rejected is replaced by the next in an
order drawn from the row's seed, so a scene depends on its seed and sources alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.scenes import IGNORE, Cutout, choose_grid, compose_scene, cut_objects, splice
from tasks.compose.sources import Generated, Pool, Source, rows_of
from tasks.run.progress import Report
from tasks.run.shards import Made, ShardJob, over_shards

__all__ = ["Composed", "compose", "compose_row"]

Bytes = NDArray[np.uint8]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Composed:
    """Image (H, W, 3), label and instance map (H, W), uint8, and where they came from.

    `layout` is "scene", or the tiles of a mosaic such as "2x2", or "none". `objects` is the
    JSON-ready provenance of each object.
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
    size: Size,
    *,
    spliced: float,
) -> Composed:
    """The scene of a row.

    `sources` are the row of the background and one row for each object, far to near. `ids` gives
    the label value of each class, `size` the (H, W) of all images, `spliced` the probability of a
    mosaic. If every source was rejected, the image is black and the label all 255, which `select`
    rejects.
    """
    rng = np.random.default_rng(seed)
    make = _mosaic if rng.random() < spliced else _scene
    return make(sources, pool, ids, size, rng) or _nothing(size)


def _scene(
    sources: list[int],
    pool: Pool,
    ids: Mapping[str, int],
    size: Size,
    rng: np.random.Generator,
) -> Composed | None:
    background = next(pool.good(sources[0], rng), None)
    found = [_object(row, pool, ids[pool.class_of(row)], rng) for row in sources[1:]]
    objects = [pair for pair in found if pair]
    if background is None or not objects:
        return None
    cutouts = [cutout for _, cutout in objects]
    scene = compose_scene(background.image, background.label, cutouts, rng)
    provenance = [asdict(one) | {"source": objects[one.source][0].id} for one in scene.objects]
    used = (background, *(source for source, _ in objects))
    return Composed(scene.image, scene.label, scene.instance, "scene", used, provenance)


def _object(
    row: int, pool: Pool, class_id: int, rng: np.random.Generator
) -> tuple[Source, Cutout] | None:
    """The largest object of a class in the first good source that has one to cut out."""
    for source in pool.good(row, rng):
        for cutout in cut_objects(source.image, source.label, [class_id]):
            return source, cutout
    return None


def _mosaic(
    sources: list[int],
    pool: Pool,
    ids: Mapping[str, int],
    size: Size,
    rng: np.random.Generator,
) -> Composed | None:
    """Tiles of the row's classes and its background in turn, each time from the next source."""
    grid = choose_grid(rng, size)
    *objects, backgrounds = (list(pool.good(row, rng)) for row in [*sources[1:], sources[0]])
    if not any(objects):
        return None
    queues = [queue for queue in (*objects, backgrounds) if queue]
    turns = [divmod(tile, len(queues)) for tile in range(grid[0] * grid[1])]
    inside = [queues[which][turn % len(queues[which])] for turn, which in turns]
    tiles = [inside[index] for index in rng.permutation(len(inside))]
    image, label, instance = splice([s.image for s in tiles], [s.label for s in tiles], grid, size)
    provenance = [{"source": s.id, "tile": list(divmod(n, grid[1]))} for n, s in enumerate(tiles)]
    layout = f"{grid[0]}x{grid[1]}"
    return Composed(image, label, instance, layout, tuple(tiles), provenance)


def _nothing(size: Size) -> Composed:
    ignored = np.full(size, IGNORE, np.uint8)
    return Composed(np.zeros((*size, 3), np.uint8), ignored, ignored, "none", (), [])


def compose_table(rows: pd.DataFrame, scenes: list[Composed]) -> pd.DataFrame:
    """Columns of composed rows.

    `row`, `id`, `layout` ("scene", "2x2", …), `sources` (rows used), `objects` (JSON);
    `confidence` and `consistency`, those of the worst source with objects, 0 without one;
    `coverage` and `ignored`, shares of the image.
    """
    with_objects = [[s for s in scene.sources if _foreground(s.label)] for scene in scenes]
    used = [list(dict.fromkeys(source.row for source in scene.sources)) for scene in scenes]
    columns = {
        "layout": [scene.layout for scene in scenes],
        "sources": used,
        "objects": [json.dumps(scene.objects) for scene in scenes],
        "confidence": [min((s.confidence for s in each), default=0.0) for each in with_objects],
        "consistency": [min((s.consistency for s in each), default=0.0) for each in with_objects],
        "coverage": [_foreground(scene.label) for scene in scenes],
        "ignored": [float(np.mean(scene.label == IGNORE)) for scene in scenes],
    }
    return rows[["row", "id"]].reset_index(drop=True).assign(**columns)


def _foreground(label: Bytes) -> float:
    return float(np.mean((label > 0) & (label < IGNORE)))


def _compose(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    """Scenes of a shard. Raises `MissingError` if a shard of its sources was not selected."""
    vocabulary = job.settings.load_vocabulary()
    planned = rows_of(job.plan, vocabulary.names)
    generated = Generated(job.store, job.settings.name, planned)
    pool = Pool(planned, cache(generated.load))
    size = generated.size()
    spliced = job.settings.compose.spliced
    scenes = []
    for sources, seed in zip(rows["sources"], rows["seed"], strict=True):
        scenes.append(
            compose_row(list(sources), int(seed), pool, vocabulary.ids, size, spliced=spliced)
        )
        report(1)
    arrays = {
        field: np.stack([getattr(scene, field) for scene in scenes])
        for field in ("image", "label", "instance")
    }
    stats = {"scenes": len(scenes), "objects": sum(len(scene.objects) for scene in scenes)}
    return Made(arrays, compose_table(rows, scenes), stats)


compose = over_shards("compose", _compose)
