"""Refine: image and attention → label map, with measures of how far the label can be trusted.

An image of a label map keeps that one (`tasks.refine.agreement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.clusters import gpu_slot
from infra.settings import RefineSettings
from models.labellers import Labeller
from models.masks import (
    IGNORE,
    AffinityNet,
    Refined,
    attention_contrast,
    refine_labels,
    walk_labels,
)
from tasks.refine.affinity import read_affinity
from tasks.refine.agreement import agreement_rows
from tasks.refine.labellers import label_image, load_labellers
from tasks.run.progress import Report
from tasks.run.shards import Arrays, Made, ShardJob, over_shards

__all__ = ["refine", "refine_rows"]

_MEASURES = ["confidence", "consistency", "contrast", "coverage", "ignored"]


class _Sample(NamedTuple):
    """One image as a batch: image (1, H, W, 3), maps (1, C, r, r), C label values and phrases."""

    image: Tensor
    spread: Tensor
    plain: Tensor
    ids: list[int]
    phrases: list[str]


def refine_rows(
    images: NDArray[np.uint8],
    attention: NDArray[np.float16],
    cross: NDArray[np.float16],
    rows: pd.DataFrame,
    settings: RefineSettings,
    ids: Mapping[str, int],
    net: AffinityNet | None = None,
    labeller: Labeller | None = None,
) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Label maps (n, H, W) uint8, 255 where uncertain, and measures of each.

    Inputs are images (n, H, W, 3) and their attention (n, P, r, r), spread and plain (`cross`).
    Labels follow the object's colours; with `net` they follow DiffuMask's random walk and
    threshold, and with `labeller` they are what that finds of the rows' `phrases`. `ids` gives the
    label value of each class.

    Columns: `row`, `id`; `confidence`, `consistency` and `contrast` in [0, 1] (see
    `models.masks.Refined`, `label_found` and `attention_contrast`); `coverage` and `ignored`, the
    shares of the image that have a class and that are 255.
    """
    labels = []
    measures = []
    spoken = rows["phrases"] if labeller is not None else rows["classes"]
    planned = zip(images, attention, cross, rows["classes"], spoken, strict=True)
    for image, maps, words, names, phrases in planned:
        sample = _Sample(
            torch.from_numpy(image)[None],
            torch.from_numpy(maps)[None, : len(names)],
            torch.from_numpy(words)[None, : len(names)],
            [ids[name] for name in names],
            list(phrases),
        )
        refined = _refine_sample(sample, settings, net, labeller)
        label = refined.label[0].numpy()
        labels.append(label)
        trust = (refined.confidence, refined.consistency, attention_contrast(sample.spread))
        measures.append((*(float(measure[0]) for measure in trust), *_shares(label)))
    table = pd.DataFrame(measures, columns=_MEASURES)
    return np.stack(labels), rows[["row", "id"]].reset_index(drop=True).join(table)


def _refine_sample(
    sample: _Sample,
    settings: RefineSettings,
    net: AffinityNet | None,
    labeller: Labeller | None,
) -> Refined:
    image, spread, plain, ids, phrases = sample
    if labeller is not None:
        band = settings.ignore_band
        return label_image(image, phrases, ids, labeller, spread=spread, plain=plain, band=band)
    if net is not None:
        return walk_labels(image, spread, ids, net, words=plain)
    iterations = settings.pamr_iterations
    band = settings.ignore_band
    return refine_labels(image, spread, ids, iterations=iterations, band=band, words=plain)


def _shares(label: NDArray[np.uint8]) -> tuple[float, float]:
    """Shares of the pixels that have a class and that are 255."""
    ignored = label == IGNORE
    return float(((label > 0) & ~ignored).mean()), float(ignored.mean())


def _refine(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    label = _given if job.settings.generator.flow else _from_attention
    arrays, table = label(job, rows)
    stats = {"coverage": float(table["coverage"].mean()), "ignored": float(table["ignored"].mean())}
    return Made(arrays, table, stats)


def _from_attention(job: ShardJob, rows: pd.DataFrame) -> tuple[Arrays, pd.DataFrame]:
    made, _ = job.read("synthesize", ["image", "attention", "cross"])
    settings = job.settings.refine
    net = read_affinity(job.store, job.settings.name) if settings.method == "diffumask" else None
    ids = job.settings.load_vocabulary().ids
    with gpu_slot(job.settings.compute) if settings.labellers else nullcontext():
        labeller = next(iter(load_labellers(job.settings)), None)
        labels, table = refine_rows(
            made["image"], made["attention"], made["cross"], rows, settings, ids, net, labeller
        )
    return {"label": labels}, table


def _given(job: ShardJob, rows: pd.DataFrame) -> tuple[Arrays, pd.DataFrame]:
    """The label maps that the images were drawn from, with their instances if they have any."""
    made, _ = job.read("synthesize")
    ids = job.settings.load_vocabulary().ids
    table = agreement_rows(made["label"], made["read"], rows, ids)
    return {name: made[name] for name in ("label", "instance") if name in made}, table


refine = over_shards("refine", _refine)
