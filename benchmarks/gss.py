"""What is GSS worth, by variant, against SegFormer at the same pictures?

All are trained on the same drawn scenes with the default settings but for `train.model`, and
measured on held-out ones. "As many minutes" is SegFormer with more steps, which cost as much as
those of GSS with codes. Stage I is measured alone: held-out labels are encoded and decoded.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.trainings import HELD_OUT, Training, drawn_training, mious, recipe_for
from infra.settings import TrainSettings
from infra.store import Store
from models import metrics
from models.embedded import world
from models.segmenters import ArraySet, DrawnScenes, Segmenter, build_segmenter
from models.segmenters.gss.nearest import scores
from models.segmenters.gss.palettes import farthest
from tasks.evaluate.measure import evaluate_segmenter
from tasks.train.checkpoints import load_folder

COUNT = {"quick": 40, "default": 2000, "full": 20_000}  # drawn scenes to train on
SEEDS = {"quick": 1, "default": 1, "full": 3}
MODELS = {
    "SegFormer": "segformer",
    "GSS-FF": "gss-ff",
    "GSS-FT": "gss-ft",
    "GSS-FT-W": "gss-ft-w",
    "GSS with codes": "gss-codes",
}
FULL = {"GSS-TF": "gss-tf", "GSS-TT": "gss-tt"}  # trained by the full size alone
MINUTES = "SegFormer, as many minutes"
# Floating-point operations of a step of GSS with codes, over those of SegFormer (torch's counter:
# 2.79; GSS-FF 2.58, GSS-FT-W 3.01). They stand for minutes, so that every machine trains the same.
STEP_COST = 2.8
SIDE = 512  # pixels, and classes as ADE20K has them: the paper's figures
CLASSES = 150


def main(size: Size) -> list[Claim]:
    models = MODELS | (FULL if size == "full" else {})
    jobs = {name: _maker(size, name, model) for name, model in models.items()}
    jobs[MINUTES] = _maker(size, MINUTES, "segformer", STEP_COST)
    miou = {name: found.mean() for name, found in mious(jobs, SEEDS[size]).items()}
    base = miou["SegFormer"]
    trained = {name: _load(make(0)) for name, make in jobs.items()}
    return [
        Claim("mIoU of GSS-FF over SegFormer", miou["GSS-FF"] / base, ">= 0.95"),
        Claim("mIoU of GSS-FT-W over SegFormer", miou["GSS-FT-W"] / base, ">= 0.97"),
        Claim("GSS with codes less GSS-FF", miou["GSS with codes"] - miou["GSS-FF"], ">= 0.02"),
        Claim("GSS with codes over SegFormer", miou["GSS with codes"] / base, ">= 0.99"),
        Claim(
            "GSS with codes over SegFormer of as many minutes",
            miou["GSS with codes"] / miou[MINUTES],
            ">= 0.99",
        ),
        *_stage_one(trained, HELD_OUT[size]),
        _restyled(trained, max(miou.keys() - {"SegFormer", MINUTES}, key=miou.__getitem__), size),
        _memory(),
    ]


def _maker(size: Size, name: str, model: str, cost: float = 1.0) -> Callable[[int], Training]:
    def make(seed: int) -> Training:
        recipe = recipe_for(size, seed, TrainSettings(model=model))
        recipe = replace(recipe, steps=round(cost * recipe.steps))
        return drawn_training(name, COUNT[size], DrawnScenes.classes, recipe, HELD_OUT[size])

    return make


def _load(training: Training) -> Segmenter:
    return load_folder(Store.open(str(CACHE / "trainings")), training.key())


def _stage_one(trained: dict[str, Segmenter], count: int) -> list[Claim]:
    """Return the mIoU of labels that went through colours and tokens, and the paper's order."""
    networks = {name: each.network for name, each in trained.items() if name.startswith("GSS")}
    networks["GSS-FF-R"] = build_segmenter("gss-ff-r", DrawnScenes.classes).network
    found = {name: _reconstruction(network, count) for name, network in networks.items()}
    for name, value in found.items():
        print(f"stage I, {name}: mIoU {value:.4f}", flush=True)
    order = ("GSS-FT-W", "GSS-FT", "GSS-FF", "GSS-FF-R")
    return [
        Claim("stage I: mIoU of labels that come back, GSS-FF", found["GSS-FF"], ">= 0.95"),
        *(
            Claim(f"stage I: {above} less {below}", found[above] - found[below], ">= 0.0")
            for above, below in pairwise(order)
        ),
    ]


def _reconstruction(network: Any, count: int) -> float:
    scenes = DrawnScenes(count)
    names = len(scenes.classes)
    matrix = np.zeros((names, names), np.int64)
    for index in range(count):
        label = scenes[index]["label"]
        back = network.eval().reconstruct(torch.from_numpy(label.astype(np.int64))[None])
        matrix += metrics.confusion_matrix(back[0].numpy(), label, names)
    return float(metrics.mean_iou(metrics.class_iou(matrix)))


def _restyled(trained: dict[str, Segmenter], best: str, size: Size) -> Claim:
    """Compare the best variant with SegFormer in another style than they were trained on."""
    found = {}
    for name in ("SegFormer", best):
        scenes = DrawnScenes(HELD_OUT[size], world.HELD_OUT, restyled=True)
        truth = ArraySet(scenes, DrawnScenes.classes)
        found[name] = evaluate_segmenter(trained[name], truth, "restyled drawn scenes").miou
        print(f"restyled world, {name}: mIoU {found[name]:.3f}", flush=True)
    ratio = found[best] / found["SegFormer"]
    return Claim(f"restyled world: mIoU of {best} over SegFormer", ratio, ">= 1.0")


def _memory() -> Claim:
    """Compare the memory of our class scores with that of distances to every colour."""
    ours, theirs = _peak(_affine), _peak(_by_distances)
    print(f"decoding {SIDE}² of {CLASSES} classes: {ours / 1e6:.0f} MB and {theirs / 1e6:.0f} MB")
    return Claim("decode memory over that of the one-hot way", ours / theirs, "<= 0.333")


def _affine(pictures: Tensor, palette: Tensor) -> Tensor:
    return scores(pictures, palette, 1.0).argmax(1)


def _by_distances(pictures: Tensor, palette: Tensor) -> Tensor:
    """The released code's way: all differences at once; squared in place, unlike there."""
    apart = pictures[:, None] - palette[:, :, None, None]
    return apart.square_().sum(2).argmin(1)


def _peak(way: Callable[[Tensor, Tensor], Tensor]) -> int:
    """Return the bytes by which a fresh process grows at most."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as worker:
        return worker.submit(_grown, way).result()


def _grown(way: Callable[[Tensor, Tensor], Tensor]) -> int:
    palette = farthest(CLASSES)
    pictures = torch.rand(1, 3, SIDE, SIDE)
    way(pictures[..., :8, :8], palette)  # loads libraries and buffers of threads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    way(pictures, palette)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


if __name__ == "__main__":
    run("gss", main)
