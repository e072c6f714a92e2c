"""Is the label where the image is, on every path from drawing to prediction?

The samples are discs of random position, radius and colours. Their edges are anti-aliased, so the
image gives a disc's centre to a fraction of a pixel. Each path transforms the samples as the
pipeline does. The shift is the centroid of the label minus the centroid of the image's disc, per
disc, averaged over all discs with its sign: the discs' rounding averages out and a bias does not.

Augmented views have a true bias of −0.012 px: where a pixel's centre lies midway between two of the
sample's, nearest-neighbour resizing always takes the label on the right and below.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from benchmarks.claims import Claim, Size, run
from infra.settings import TrainSettings
from infra.store import Store, write_shard
from models.embedded import world
from models.masks import refine_labels
from models.metrics import IGNORE
from models.scenes import components
from models.segmenters import (
    Augmentation,
    Segmenter,
    build_segmenter,
    predict_probabilities,
    train_segmenter,
)
from models.segmenters.openmmlab import MODELS, ConfigDict, isolated
from models.segmenters.samples import TrainingView, Views
from tasks.compose.scenes import compose_row
from tasks.compose.sources import Pool, Rows, Source
from tasks.select.screened import Screened
from tasks.train.recipe import recipe_of

COUNTS = {"quick": 40, "default": 400, "full": 4000}
SIDE = 128
CLASSES = ("background", "disc")
GREY = 80  # of every background, so that the edges of a mosaic's tiles do not show
MARGIN = 8  # pixels around a disc in which all of its blurred edge is counted
DEPTH = 3  # pixels from the outline; beyond them brightness is that of the inside or the background
UNEVEN = 0.03  # standard deviation as a share of the contrast; single discs reach 0.021
RECIPE = replace(recipe_of(TrainSettings(), 0), steps=300, crop=(64, 64))

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
Maps = Iterator[tuple[Floats, Bytes]]  # grey image or score (H, W), and label (H, W)


class Discs(Dataset[dict[str, Any]]):
    """`count` images of one disc each (label 1) on an even background, as `LabelledItem`.

    The disc's grey is drawn per image. `size` is (H, W) in pixels; radii are 9 to 20 pixels.
    """

    def __init__(self, count: int, size: tuple[int, int] = (SIDE, SIDE), first: int = 0) -> None:
        self._count = count
        self._size = size
        self._first = first

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng(self._first + index)
        radius = rng.uniform(9, 20)
        middle = [rng.uniform(radius + 2, side - radius - 2) for side in self._size]
        share = coverage(self._size, middle, radius)
        grey = np.round(GREY + (rng.uniform(160, 230) - GREY) * share).astype(np.uint8)
        return {
            "image": torch.from_numpy(np.repeat(grey[None], 3, 0)),
            "label": torch.from_numpy((share > 0.5).astype(np.uint8)),
            "id": f"disc {self._first + index}",
        }


def coverage(size: tuple[int, int], middle: list[float], radius: float) -> Floats:
    """Share of each pixel (H, W) inside a disc, of a straight edge at its distance.

    `middle` is (down, right) in pixels from the middle of pixel (0, 0).
    """
    rows, columns = (np.arange(side) for side in size)
    distance = np.hypot(rows[:, None] - middle[0], columns - middle[1])
    return np.asarray(np.clip(radius - distance + 0.5, 0, 1))


def main(size: Size) -> list[Claim]:
    """Measure the shift on every path."""
    claims = []
    for name, maps in paths(COUNTS[size]).items():
        shifts = shifts_of(maps())
        down, right = shifts.mean(0)
        error = shifts.std(0) / np.sqrt(len(shifts))
        print(
            f"{name}: {len(shifts)} objects, right {right:+.3f} ± {error[1]:.3f} px, "
            f"down {down:+.3f} ± {error[0]:.3f} px",
            flush=True,
        )
        claims.append(
            Claim(
                f"shift of label against image, {name}, px", max(abs(down), abs(right)), "<= 0.05"
            )
        )
    return claims


def paths(count: int) -> dict[str, Callable[[], Maps]]:
    """Return every path by name; each gives about `count` discs."""
    discs = Discs(count)
    augmented = {
        "augment: scale": Augmentation(),
        "augment: paste": Augmentation(paste=1),
        "augment: splice": Augmentation(splice=1),
        "augment: blur": Augmentation(blur=1),
        "augment: occlusion": Augmentation(occlusion=1),
        "augment: perspective": Augmentation(perspective=1),
        "augment: all together": Augmentation(1, 1, 1, 1, 1),
    }
    found: dict[str, Callable[[], Maps]] = {"drawn world": partial(drawn, count)}
    found |= {name: partial(views, discs, chosen) for name, chosen in augmented.items()}
    return found | {
        "noise learning: screened samples": partial(screened, discs, view=False),
        "noise learning: a fold's training views": partial(screened, discs, view=True),
        "compose: scenes": partial(composed, count, spliced=0.0),
        "compose: mosaics": partial(composed, count, spliced=1.0),
        "refine: attention of 16 x 16 cells": partial(refined, discs, cells=16),
        "refine: attention of 32 x 32 cells": partial(refined, discs, cells=32),
        "evaluate: padding and up-sampling": partial(predicted, count, averaging_segmenter()),
        "evaluate: a trained network": partial(learnt, count),
    }


def shifts_of(maps: Maps) -> Floats:
    """Return the shifts (n, 2) of all objects of a path, as `disc_shifts`."""
    return np.concatenate([disc_shifts(*pair) for pair in maps])


def disc_shifts(soft: Floats, label: Bytes) -> Floats:
    """Return the label's centroid minus the image's, (n, 2) pixels down and right, per object.

    The image's disc is weighted by brightness between the local background and the disc. Pixels
    labelled 255 count for neither. An object's brightness must give its position, so these are left
    out: an object within `MARGIN` of another or of the border; one whose inside is uneven, as two
    overlapping discs of different greys are, which the label joins and the brightness weighs
    differently; one with an uneven surrounding, such as the blurred edge of an occluding patch; and
    one less than 2 * `DEPTH` pixels thick, which has no inside. Both regions that must be even keep
    away from the outline, so the choice does not depend on a shift of less than `DEPTH` pixels.
    """
    found = []
    for part in components(label):
        top, left, height, width = part.box
        window = np.s_[
            max(0, top - MARGIN) : top + height + MARGIN,
            max(0, left - MARGIN) : left + width + MARGIN,
        ]
        if soft[window].shape != (height + 2 * MARGIN, width + 2 * MARGIN):
            continue
        found += _shift(soft[window], label[window], np.pad(part.mask, MARGIN))
    return np.reshape(found, (-1, 2))


def _shift(soft: Floats, label: Bytes, mask: NDArray[np.bool_]) -> list[Floats]:
    known = _grown(mask, MARGIN) & (label != IGNORE)
    inside, around = ~_grown(~mask, DEPTH), known & ~_grown(mask, DEPTH + 1)
    if (known & (label > 0) & ~mask).any() or not inside.any() or not around.any():
        return []
    dark, bright = np.median(soft[around]), np.median(soft[inside])
    if max(soft[inside].std(), soft[around].std()) > UNEVEN * abs(bright - dark):
        return []
    weight = np.where(known, (soft - dark) / (bright - dark), 0)
    return [_centroid(mask.astype(np.float64)) - _centroid(weight)]


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Return the mask grown by `pixels` in every direction, diagonals included."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def _centroid(weight: Floats) -> Floats:
    rows, columns = np.indices(weight.shape)
    sums = np.array([(weight * rows).sum(), (weight * columns).sum()])
    return np.asarray(sums / weight.sum())


def drawn(count: int) -> Maps:
    """Yield each pixel's coverage by a single object of the drawn world, and its label."""
    for seed in range(count):
        scene = world.sample_scene(np.random.default_rng(world.HELD_OUT + seed), max_objects=1)
        for thing in scene.objects:
            yield world.object_coverage(thing, scene), world.draw_scene(scene).label


def views(samples: Dataset[Any], augmentation: Augmentation) -> Maps:
    """Yield the samples as a training sees them, scaled as by default."""
    count = len(samples)  # type: ignore[arg-type]  # a torch Dataset has no length of its own
    chosen = Views(count, 2, (SIDE, SIDE), RECIPE.scale, 0, augmentation)
    for view in (TrainingView(samples, chosen)[position] for position in range(count)):
        yield grey(view["inputs"]), view["data_samples"].gt_sem_seg.data[0].numpy().astype(np.uint8)


def grey(image: Tensor) -> Floats:
    """Return the mean of the channels (H, W) of an image (3, H, W)."""
    return image.double().mean(0).numpy()


def screened(samples: Discs, *, view: bool) -> Maps:
    """Write the samples as shards of a run, and yield them as noise learning reads them."""
    items = list(samples)
    table = pd.DataFrame({"row": range(len(items)), "id": [item["id"] for item in items]})
    image = np.stack([item["image"].permute(1, 2, 0).numpy() for item in items])
    label = np.stack([item["label"].numpy() for item in items])
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        write_shard(store, "runs/discs/synthesize/00000", {"image": image}, table)
        write_shard(store, "runs/discs/refine/00000", {"label": label}, table)
        rows = pd.DataFrame({"shard": 0, "place": range(len(items))})
        stored = Screened(store, "discs", rows)
        if view:
            yield from views(stored, Augmentation())
        else:
            for item in (stored[index] for index in range(len(items))):
                yield grey(item["image"]), item["label"].numpy()


def composed(count: int, *, spliced: float) -> Maps:
    """Yield scenes, or mosaics if `spliced` is 1, of two discs each on backgrounds without any."""
    discs, kinds = Discs(count), ["single"] * count + ["negative"] * count
    classes = pa.array([["disc"]] * count + [[]] * count, pa.list_(pa.string()))
    shards = pa.array([0] * len(kinds), pa.int32())
    rows = Rows([pa.table({"kind": kinds, "classes": classes, "shard": shards})], ("disc",))

    def load(row: int) -> Source:
        if row < count:
            image = discs[row]["image"].permute(1, 2, 0).numpy()
            return Source(row, str(row), image, discs[row]["label"].numpy(), 1.0, 1.0)
        image = np.full((SIDE, SIDE, 3), GREY, np.uint8)
        return Source(row, str(row), image, np.zeros((SIDE, SIDE), np.uint8), 1.0, 1.0)

    pool = Pool(rows, load)
    for row in range(count):
        sources = [count + row, row, (row + 1) % count]
        scene = compose_row(sources, row, pool, {"disc": 1}, (SIDE, SIDE), spliced=spliced)
        yield scene.image.mean(2), scene.label


def refined(samples: Discs, cells: int) -> Maps:
    """Yield labels made of attention that is the disc's coverage of `cells` × `cells` cells."""
    for item in samples:
        share = item["label"][None, None].float()
        attention = F.adaptive_avg_pool2d(share, cells)
        pixels = item["image"].permute(1, 2, 0)[None].contiguous()
        labels = refine_labels(pixels, attention, [1], iterations=3, band=0.0).label
        yield grey(item["image"]), labels[0].numpy()


@MODELS.register_module()
class CellMeans(nn.Module):
    """A backbone whose only feature is the mean of each cell of 4 × 4 pixels: (N, 1, H/4, W/4)."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the cells' means of normalised images (N, 3, H, W)."""
        return [F.avg_pool2d(images.mean(1, keepdim=True), 4)]


def averaging_segmenter() -> Segmenter:
    """Return a segmenter without a shift of its own: its logit is the brightness of 4 × 4 pixels.

    Its padding, up-sampling and cutting are those of every segmenter.
    """
    base = build_segmenter("segformer-b0", CLASSES).config["model"]
    head = {"type": "FCNHead", "in_channels": 1, "channels": 1, "num_convs": 0, "num_classes": 2}
    head |= {"concat_input": False, "dropout_ratio": 0.0, "align_corners": False}
    model = base | {"backbone": {"type": "CellMeans"}, "decode_head": head}
    with isolated(), torch.no_grad():
        network: Any = MODELS.build(ConfigDict(model))
        network.decode_head.conv_seg.weight.copy_(torch.tensor([-0.1, 0.1]).view(2, 1, 1, 1))
        network.decode_head.conv_seg.bias.zero_()
    return Segmenter(network.eval(), {"model": model}, CLASSES)


def predicted(count: int, segmenter: Segmenter, size: tuple[int, int] = (100, 118)) -> Maps:
    """Yield probabilities and label of discs; no backbone's stride divides the images' sides."""
    for item in Discs(count, size, first=1 << 20):
        yield (
            predict_probabilities(segmenter, item["image"][None])[0, 1].numpy(),
            item["label"].numpy(),
        )


def learnt(count: int) -> Maps:
    """Yield the predictions of a network that was trained on other discs."""
    trained = train_segmenter(Discs(400), CLASSES, RECIPE)
    print(f"trained for {trained.seconds:.0f} s, loss {trained.curve[-1]['loss']:.4f}", flush=True)
    yield from predicted(count, trained.segmenter)


if __name__ == "__main__":
    run("shift", main)
