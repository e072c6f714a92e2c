"""Does the embedded generator draw what its prompts say, and more than its training images?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from benchmarks.claims import Claim, Size, run
from benchmarks.night import night
from models.embedded import world
from models.embedded.oracle import Oracle, load_oracle
from models.metrics import class_iou, confusion_matrix, mean_iou

LEAST_AREA = 0.02  # smallest share of the image at which a class counts as shown
TRAINING_IMAGES = 50_000  # compared with, of those that the shipped weights were trained on
_PROMPTS = {"quick": 20, "default": 500, "full": 2000}


def main(size: Size) -> list[Claim]:
    oracle = load_oracle()
    made = night(size)
    counts = made.table["classes"].map(len)
    rows = {n: made.table[counts == n].head(_PROMPTS[size]) for n in (1, 2)}
    images = {n: made.read("synthesize", "image", some) for n, some in rows.items()}
    seen = {n: oracle.see(stack) for n, stack in images.items()}
    backgrounds = [
        name == planned
        for n, some in rows.items()
        for name, planned in zip(seen[n].grounds, some["background"], strict=True)
    ]
    return [
        Claim("oracle on held-out truth, mIoU", oracle_miou(oracle, _PROMPTS[size]), ">= 0.97"),
        Claim(
            "one-object prompts: named class and no other",
            shown(seen[1].labels, rows[1]),
            ">= 0.95",
        ),
        Claim(
            "two-object prompts: both and nothing else", shown(seen[2].labels, rows[2]), ">= 0.85"
        ),
        Claim("named background", float(np.mean(backgrounds)), ">= 0.95"),
        Claim(
            "variety: nearest training image, relative to held-out drawings",
            variety(images[1], size),
            ">= 0.8",
        ),
    ]


def oracle_miou(oracle: Oracle, count: int) -> float:
    """Return the mean IoU over background and classes on held-out drawings."""
    drawings = [world.draw(world.HELD_OUT + i) for i in range(count)]
    seen = oracle.see(np.stack([d.image for d in drawings])).labels
    truth = np.stack([d.label for d in drawings])
    labels = 1 + len(world.vocabulary()["classes"])
    return mean_iou(class_iou(confusion_matrix(seen, truth, labels)))


def shown(labels: NDArray[np.uint8], rows: pd.DataFrame) -> float:
    """Return the share of images in which exactly the named classes cover `LEAST_AREA` or more.

    For prompts of one class, the share of each class is printed.
    """
    ids = {c["name"]: c["id"] for c in world.vocabulary()["classes"]}
    right = []
    for label, names in zip(labels, rows["classes"], strict=True):
        areas = np.bincount(label.ravel(), minlength=max(ids.values()) + 1)[1:] / label.size
        right.append(set(np.flatnonzero(areas >= LEAST_AREA) + 1) == {ids[name] for name in names})
    if max(map(len, rows["classes"])) == 1:
        by_class = pd.Series(right, rows["classes"].map("+".join)).groupby(level=0).mean()
        print(*(f"  {name}: {share:.2f}" for name, share in by_class.items()), sep="\n")
    return float(np.mean(right))


def variety(images: NDArray[np.uint8], size: Size) -> float:
    """Return the mean distance of generated images to the nearest training image, over that of
    held-out drawings of one object.

    The distance is Euclidean between 16×16 thumbnails, where a copied scene is near 0 and texture
    and noise do not count.
    """
    count = 2000 if size == "quick" else TRAINING_IMAGES
    training = _thumbnails(np.stack([world.draw(seed).image for seed in range(count)]))
    names = [c["name"] for c in world.vocabulary()["classes"]]
    drawn = []
    for index in range(len(images)):
        rng = np.random.default_rng(world.HELD_OUT + index)
        scene = world.sample_scene(rng, [names[index % len(names)]])
        drawn.append(world.draw_scene(scene).image)
    nearest = [cdist(_thumbnails(x), training).min(1).mean() for x in (images, np.stack(drawn))]
    return float(nearest[0] / nearest[1])


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    cells = images.reshape(len(images), 16, 8, 16, 8, 3)
    means: NDArray[np.float32] = cells.mean((2, 4), dtype=np.float32)
    return means.reshape(len(images), -1)


if __name__ == "__main__":
    run("generator", main)
