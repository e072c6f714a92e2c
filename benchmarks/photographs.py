"""How good are labels of photographs, from maps of many kinds, and how well is that known?

    python -m benchmarks.photographs --root FOLDER

FOLDER has photographs in VOC layout with the splits train and val, a classes.txt, and maps.npz:
maps of a real network for the labelled classes of each photograph, as arrays `stem`, `cls` (class
id), and one array (n, r, r) of maps for each of NETWORK. The other kinds of maps are simulated from
the true mask. Counted are photographs with one object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from benchmarks.claims import Claim, Size, run
from infra.settings import Settings
from infra.voc import VocFolder
from models.masks import IGNORE, object_scores, refine_labels
from models.metrics import expected_calibration_error, mask_iou

PHOTOGRAPHS = {"quick": 4, "default": None, "full": None}  # None: all
NETWORK = ("cam", "spread")
SIMULATED = {"good": (64, 32, 16), "parts": (16,), "weak": (16, 32)}  # grids
THINGS = "aeroplane bicycle bird boat body book car cat chair cow dog face flower horse sheep sign"
AREAS = (0.04, 0.6)  # shares of the image
BINS = 10  # of expected IoU, for its calibration
GAINS = {
    "good 64": ">= -0.003",
    "good 32": ">= -0.003",
    "good 16": ">= 0.01",
    "parts 16": ">= 0.06",
    "weak 16": ">= 0.16",
    "weak 32": ">= 0.13",
    "cam": ">= 0.13",
    "spread": ">= 0.08",
}
KEPT = {
    "good 64": ">= 0.95",
    "good 32": ">= 0.92",
    "good 16": ">= 0.85",
    "cam": ">= 0.5",
    "spread": ">= 0.6",
}


@dataclass(frozen=True)
class Found:
    """IoU of one label with the truth, that of the map's own threshold, and what is expected."""

    kind: str
    own: float
    iou: float
    confidence: float
    kept: bool


def main(size: Size, root: Path) -> list[Claim]:
    found = [each for photo in photographs(root, PHOTOGRAPHS[size]) for each in labelled(*photo)]
    of_kind = {kind: [each for each in found if each.kind == kind] for kind in GAINS}
    for kind, rows in of_kind.items():
        columns = ((r.own, r.iou, r.confidence, r.kept) for r in rows)
        own, iou, confidence, kept = np.mean([*columns], 0)
        print(f"{kind}: own {own:.3f}, label {iou:.3f}, expected {confidence:.3f}, kept {kept:.2f}")
    real = [each.iou for kind in NETWORK for each in of_kind[kind] if each.kept]
    expected = np.array([each.confidence for each in found])
    true = np.array([each.iou for each in found])
    return [
        *(
            Claim(f"{kind}: IoU less the map's own", gain(of_kind[kind]), GAINS[kind])
            for kind in GAINS
        ),
        *(
            Claim(f"{kind}: share kept", float(np.mean([r.kept for r in of_kind[kind]])), mark)
            for kind, mark in KEPT.items()
        ),
        Claim("a network's maps: IoU of what is kept", float(np.mean(real)), ">= 0.8"),
        Claim("rank correlation, expected with true IoU", spearmanr(expected, true)[0], ">= 0.7"),
        Claim("calibration error of the expected IoU", calibration(expected, true), "<= 0.05"),
    ]


def gain(rows: list[Found]) -> float:
    return float(np.mean([each.iou - each.own for each in rows]))


def calibration(expected: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Return the mean difference of expected and true IoU over bins, weighted by their labels."""
    index = np.minimum((expected * BINS).astype(int), BINS - 1)
    weights = (np.ones_like(true), expected, true)
    return expected_calibration_error(np.stack([np.bincount(index, w, BINS) for w in weights]))


def photographs(
    root: Path, most: int | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, Tensor], int]]:
    """Yield image, label (1 object, 0 other, 255 unlabelled), the network's maps, and a seed."""
    maps = dict(np.load(root / "maps.npz"))  # refuses pickles; reads each array once
    count = 0
    for split in ("train", "val"):
        folder = VocFolder(root, split, ())
        things = [folder.classes.index(name) for name in THINGS.split()]
        for item in folder:
            mine = (maps["stem"] == item["id"]) & np.isin(maps["cls"], things)
            if mine.sum() != 1 or count == most:
                continue
            row = int(mine.argmax())
            label = item["label"]
            truth = np.where(label == IGNORE, IGNORE, label == maps["cls"][row]).astype(np.uint8)
            if AREAS[0] < (truth == 1).mean() < AREAS[1]:
                count += 1
                given = {kind: torch.from_numpy(maps[kind][row]).float() for kind in NETWORK}
                yield item["image"], truth, given, row


def labelled(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], given: dict[str, Tensor], seed: int
) -> Iterator[Found]:
    """Yield what the default settings make of a photograph's maps of each kind."""
    rng = np.random.default_rng([seed, 22])
    mask = torch.from_numpy(truth == 1)
    simulated = {
        f"{kind} {side}": simulate(mask, side, kind, rng)
        for kind, sides in SIMULATED.items()
        for side in sides
    }
    settings = Settings()
    counted = truth != IGNORE
    for kind, each in (simulated | given).items():
        maps = each[None, None]
        own = object_scores(maps, truth.shape)[0, 1].numpy() > 0.5
        refined = refine_labels(
            torch.from_numpy(image.copy())[None],
            maps,
            [1],
            iterations=settings.refine.pamr_iterations,
            band=settings.refine.ignore_band,
        )
        confidence, consistency = float(refined.confidence[0]), float(refined.consistency[0])
        kept = confidence >= settings.select.min_confidence
        yield Found(
            kind,
            mask_iou(own & counted, mask.numpy()),
            mask_iou((refined.label[0].numpy() == 1) & counted, mask.numpy()),
            confidence,
            kept and consistency >= settings.select.min_consistency,
        )


def simulate(mask: Tensor, side: int, kind: str, rng: np.random.Generator) -> Tensor:
    """Return a map (side, side) of a mask: blurred and uneven, with noise outside.

    "parts" lights a part of the object, and "weak" is dim and noisy.
    """
    coarse = F.interpolate(mask[None, None].float(), size=(side, side), mode="area")
    taps = torch.tensor([0.25, 0.5, 0.25])
    kernel = (taps[:, None] * taps)[None, None]
    blurred = F.conv2d(F.pad(coarse, (1, 1, 1, 1), mode="replicate"), kernel)[0, 0]
    if kind == "good":
        found = blurred * (1 + 0.15 * waves(rng, 5, side)) + 0.05 * waves(rng, 4, side)
    elif kind == "weak":
        found = blurred * (0.6 + 0.3 * waves(rng, 5, side)) + 0.15 * waves(rng, 4, side)
    else:
        places = torch.nonzero(blurred > 0.5)
        if len(places):
            reach = max(2.0, 0.5 * len(places) ** 0.5)
            away = torch.cartesian_prod(torch.arange(side), torch.arange(side))
            away = (away - places[rng.integers(len(places))]).square().sum(1).view(side, side)
            blurred = blurred * (0.35 + 0.65 * torch.exp(-away / (2 * reach**2)))
        found = blurred + 0.06 * waves(rng, 4, side)
    return found.clamp_min(0)


def waves(rng: np.random.Generator, count: int, side: int) -> Tensor:
    """Return smooth noise (side, side) of unit variance, from count² random numbers."""
    drawn = torch.from_numpy(rng.standard_normal((1, 1, count, count)).astype(np.float32))
    noise = F.interpolate(drawn, size=(side, side), mode="bicubic", align_corners=False)[0, 0]
    return (noise - noise.mean()) / noise.std()


if __name__ == "__main__":
    run("photographs", main, {"root": "photographs in VOC layout, with maps.npz"})
