"""Does one flow segment images, and draw images of masks?

Flow and SegFormer are trained on the same drawn scenes, and SegFormer with as many steps as help
it. Images drawn from held-out masks are read back by the oracle and by the flow itself, compared
with held-out drawings, with the text generator's images and with other images of the same mask,
and a SegFormer is trained on images of the training masks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.night import night
from benchmarks.trainings import HELD_OUT, InMemory, Training, drawn_training, recipe_for, results
from infra.settings import TrainSettings
from infra.store import Store
from models.embedded.oracle import Oracle, load_oracle
from models.embedded.training import to_unit
from models.metrics import class_iou, confusion_matrix, kernel_distance, mean_iou
from models.segmenters import (
    ArraySet,
    Drawn,
    DrawnScenes,
    Segmenter,
    draw_images,
    predict_probabilities,
)
from tasks.evaluate.measure import evaluate_segmenter
from tasks.evaluate.sets import drawn_truth
from tasks.train.checkpoints import load_folder

SCENES = {"quick": 40, "default": 4000, "full": 20_000}
STEPS = {"quick": 4, "default": 1500, "full": 30_000}  # of the flow
LONGER = {"quick": (1,), "default": (1, 4), "full": (1, 4)}  # SegFormer's steps, times its own
SOLVER_STEPS = (1, 2, 5, 10, 25)
FLOWS = {"as published": "semflow-anchors", "learned codes": "semflow"}
CLASSES = DrawnScenes.classes


def main(size: Size) -> list[Claim]:
    flows = {name: flow(size, model) for name, model in FLOWS.items()}
    longer = [segformer(size, times) for times in LONGER[size]]
    found = [each["miou"] for each in results([*flows.values(), *longer])]
    ours = dict(zip(FLOWS, found, strict=False))
    segformers = found[len(FLOWS) :]
    best = max(segformers)
    segmenter = load_folder(Store.open(str(CACHE / "trainings")), flows["learned codes"].key())
    by_steps = {steps: miou(segmenter, steps, size) for steps in SOLVER_STEPS}
    print("mIoU by steps:", {steps: round(value, 3) for steps, value in by_steps.items()})
    return [
        Claim("as published over SegFormer, mIoU", ours["as published"] / best, ">= 0.85"),
        Claim("learned codes over SegFormer, mIoU", ours["learned codes"] / best, ">= 0.95"),
        Claim("10 steps over 25, mIoU", by_steps[10] / by_steps[25], ">= 0.98"),
        Claim("1 step over 25, mIoU", by_steps[1] / by_steps[25], ">= 0.97"),
        *drawn_back(segmenter, size, segformers[0]),
    ]


def flow(size: Size, model: str) -> Training:
    """Return the training of a flow on drawn scenes."""
    chosen = TrainSettings(model=model, steps=STEPS[size], batch_size=64, learning_rate=2e-3)
    recipe = recipe_for("default", 0, chosen)
    return drawn_training(model, SCENES[size], CLASSES, recipe, HELD_OUT[size])


def segformer(size: Size, times: int) -> Training:
    """Return the default training on the same scenes, `times` as long."""
    steps = times * recipe_for(size).steps
    recipe = recipe_for("default", 0, TrainSettings(steps=steps))
    return drawn_training("segformer", SCENES[size], CLASSES, recipe, HELD_OUT[size])


def miou(segmenter: Segmenter, steps: int, size: Size) -> float:
    """Return the mIoU on held-out scenes with so many Euler steps."""
    network: Any = segmenter.network
    own, network.steps = network.steps, steps
    truth = drawn_truth(HELD_OUT[size], CLASSES)
    found = evaluate_segmenter(segmenter, truth, "held-out drawn scenes").miou
    network.steps = own
    return found


def drawn_back(segmenter: Segmenter, size: Size, on_drawings: float) -> list[Claim]:
    """Return the claims on images that the flow draws of masks."""
    oracle = load_oracle()
    scenes = DrawnScenes(HELD_OUT[size])
    images = np.stack([item["image"] for item in map(scenes.__getitem__, range(len(scenes)))])
    labels = np.stack([scenes[index]["label"] for index in range(len(scenes))])
    drawn = draw(segmenter, labels).images
    read = confusion_matrix(oracle.see(drawn).labels, labels, len(CLASSES))
    made = night(size)
    rows = made.table.head(len(drawn))
    by_text = made.read("synthesize", "image", rows)
    half = len(images) // 2
    embed = partial(features, oracle)
    distance = kernel_distance(embed(drawn[half:]), embed(images[:half]))
    text = kernel_distance(embed(by_text), embed(images[:half]))
    print(f"kernel distance: {distance:.4f} of masks, {text:.4f} of text")
    predicted = segmented(segmenter, images)
    again = draw(segmenter, predicted).read
    cycle = mean_iou(class_iou(confusion_matrix(again, predicted, len(CLASSES))))
    training = Training(
        "segformer on the flow's images",
        InMemory(ArraySet(Redrawn(segmenter, SCENES[size]), CLASSES)),
        f"{SCENES[size]} scenes drawn by {flow(size, 'semflow').key()}",
        CLASSES,
        segformer(size, 1).recipe,
        HELD_OUT[size],
    )
    (found,) = results([training])
    return [
        Claim("oracle reads the mask back, mIoU", mean_iou(class_iou(read)), ">= 0.9"),
        Claim("kernel distance, of masks over of text", distance / text, "<= 1.5"),
        Claim("image to mask to image to mask: mIoU of both masks", cycle, ">= 0"),
        Claim("variety of images of one mask", variety(embed, segmenter, labels, drawn), ">= 0"),
        Claim("SegFormer on its images over on drawn ones", found["miou"] / on_drawings, ">= 0.9"),
    ]


def draw(segmenter: Segmenter, labels: NDArray[np.uint8], seed: int = 0) -> Drawn:
    """Return what the flow draws of label maps (n, H, W), and the masks that it reads back."""
    first = seed * len(labels)
    parts = [
        draw_images(segmenter, part, range(first + start, first + start + len(part)), steps=25)
        for start in range(0, len(labels), 25)
        for part in [labels[start : start + 25]]
    ]
    images, read, finite = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("images", "read", "finite")
    )
    return Drawn(images, read, finite)


def segmented(segmenter: Segmenter, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the predicted labels (n, H, W) of images (n, H, W, 3)."""
    parts = []
    for start in range(0, len(images), 25):
        batch = torch.from_numpy(images[start : start + 25]).permute(0, 3, 1, 2)
        parts.append(predict_probabilities(segmenter, batch).argmax(1).byte().numpy())
    return np.concatenate(parts)


def variety(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    segmenter: Segmenter,
    labels: NDArray[np.uint8],
    drawn: NDArray[np.uint8],
) -> float:
    """Return the distance of two images of one mask, over that of images of different masks.

    Both are mean distances of the oracle's features. 0: a mask has one image only.
    """
    first, second = embed(drawn), embed(draw(segmenter, labels, seed=1).images)
    same = np.linalg.norm(first - second, axis=1).mean()
    different = np.linalg.norm(first - np.roll(first, 1, axis=0), axis=1).mean()
    return float(same / different)


class Redrawn:
    """Scenes of training seeds, with the flow's image of each mask; all drawn at first use."""

    classes = CLASSES

    def __init__(self, segmenter: Segmenter, count: int) -> None:
        self._segmenter = segmenter
        self._scenes = DrawnScenes(count, first=0)
        self._images: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> dict[str, object]:
        if self._images is None:
            labels = [self._scenes[each]["label"] for each in range(len(self))]
            self._images = draw(self._segmenter, np.stack(labels)).images
        return {**self._scenes[index], "image": self._images[index]}


@torch.inference_mode()
def features(oracle: Oracle, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the oracle's coarsest features of images (n, H, W, 3), averaged over space."""
    found = []
    for start in range(0, len(images), 50):
        x = F.pixel_unshuffle(to_unit(images[start : start + 50]), 2)
        for level, block in enumerate(oracle.down):
            x = block(F.max_pool2d(x, 2) if level else x)
        found.append(x.mean((2, 3)).double().numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    run("semflow", main)
