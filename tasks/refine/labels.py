"""Refine: image and attention → label map, 255 where unsure, and how far the label can be trusted."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from infra.blocks import open_store
from infra.settings import RefineSettings, Settings
from infra.store import Marker, read_marker, read_shard, write_shard
from models.masks import IGNORE, AffinityNet, attention_contrast, refine_labels, walk_labels
from tasks.plan.table import Plan
from tasks.refine.affinity import read_affinity
from tasks.run.progress import Report
from tasks.run.stages import over_shards

__all__ = ["refine", "refine_rows", "refine_shard"]


def refine_rows(
    images: NDArray[np.uint8],
    attention: NDArray[np.float16],
    cross: NDArray[np.float16],
    rows: pd.DataFrame,
    settings: RefineSettings,
    ids: Mapping[str, int],
    net: AffinityNet | None = None,
) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Label maps (n, H, W) uint8 of images (n, H, W, 3), spread and plain maps (n, P, r, r); and
    columns a row.

    By the object's colours, or with `net`, DiffuMask's affinities, by its walk and threshold.
    Columns: `row`, `id`, `confidence`, `consistency` and `contrast` in [0, 1] (see
    `models.masks.Refined` and `attention_contrast`), and `coverage` and `ignored`, the shares of
    the image that are labelled with a class and unsure.
    """
    labels, columns = [], []
    for image, maps, words, names in zip(images, attention, cross, rows["classes"], strict=True):
        picture, spread = torch.from_numpy(image)[None], torch.from_numpy(maps)[None, : len(names)]
        plain, named = torch.from_numpy(words)[None, : len(names)], [ids[name] for name in names]
        if net is None:
            iterations, band = settings.pamr_iterations, settings.ignore_band
            refined = refine_labels(
                picture, spread, named, iterations=iterations, band=band, words=plain
            )
        else:
            refined = walk_labels(picture, spread, named, net, words=plain)
        label = refined.label[0].numpy()
        labels.append(label)
        trust = (refined.confidence, refined.consistency, attention_contrast(spread))
        columns.append((*(float(measure[0]) for measure in trust), *_shares(label)))
    table = pd.DataFrame(
        columns, columns=["confidence", "consistency", "contrast", "coverage", "ignored"]
    )
    return np.stack(labels), rows[["row", "id"]].reset_index(drop=True).join(table)


def _shares(label: NDArray[np.uint8]) -> tuple[float, float]:
    unsure = label == IGNORE
    return float(((label > 0) & ~unsure).mean()), float(unsure.mean())


def refine_shard(settings: Settings, shard: int) -> Marker:
    """Label one shard's images, unless that is in the store."""
    store, run = open_store(settings.store), f"runs/{settings.name}"
    path = f"{run}/refine/{shard:05d}"
    if (marker := read_marker(store, path)) is not None:
        return marker
    start = time.monotonic()
    rows = Plan(store, settings).of_shard(shard)
    made, _ = read_shard(store, f"{run}/synthesize/{shard:05d}", ["image", "attention", "cross"])
    with Report("refine", f"{shard:05d}", len(rows)) as report:
        ids = settings.load_vocabulary().ids
        net = read_affinity(store, settings.name) if settings.refine.method == "diffumask" else None
        labels, table = refine_rows(
            made["image"], made["attention"], made["cross"], rows, settings.refine, ids, net
        )
        report(len(rows))
    stats = {"coverage": float(table["coverage"].mean()), "ignored": float(table["ignored"].mean())}
    return write_shard(store, path, {"label": labels}, table, stats, time.monotonic() - start)


refine = over_shards("refine", refine_shard)
