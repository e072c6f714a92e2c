"""What are real photographs and real weights worth to the segmenters?

    python -m benchmarks.real --root FOLDER --weights FILE

FOLDER has photographs in VOC layout with the splits train and val, and a classes.txt. FILE is
torchvision's MobileNetV2 with ImageNet weights (`mobilenet_v2-b0353104.pth`). mmsegmentation's
MobileNetV2 with SegFormer's head starts from it, and from random weights. The presets are
trained from scratch, for comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.trainings import InMemory, Training, mious
from infra.settings import TrainSettings
from infra.voc import VocFolder
from models.segmenters import PRESETS, ArraySet
from tasks.train.recipe import recipe_of

SEEDS = {"quick": 1, "default": 3, "full": 3}
STEPS = {"quick": 4, "default": 440, "full": 4000}
CROP = (192, 192)
RATE = 2e-3  # a quarter of the default, so that real weights are not lost at once
CONFIG = """
model = dict(
    type="EncoderDecoder",
    backbone=dict(type="MobileNetV2", out_indices=(1, 2, 4, 6), strides=(1, 2, 2, 2, 1, 2, 1)),
    decode_head=dict(
        type="SegformerHead", in_channels=[24, 32, 96, 320], in_index=[0, 1, 2, 3], channels=64,
        num_classes=2, norm_cfg=dict(type="BN"), align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True)),
    test_cfg=dict(mode="whole"))
"""


def main(size: Size, root: Path, weights: Path) -> list[Claim]:
    CACHE.mkdir(parents=True, exist_ok=True)
    config = CACHE / "mobilenet_v2.py"
    config.write_text(CONFIG)

    def mobilenet(given: Path | None, seed: int) -> Training:
        text = str(given) if given else "random"
        chosen = TrainSettings(model=str(config), weights=text, learning_rate=RATE)
        return training("MobileNetV2", chosen, seed, size, root)

    found = mious(
        {
            "real weights": lambda s: mobilenet(weights, s),
            "from scratch": lambda s: mobilenet(None, s),
        },
        SEEDS[size],
    )
    gain = found["real weights"].mean() - found["from scratch"].mean()
    shown = [name for name in PRESETS if not name.startswith("gss-")]  # "gss" stands for them
    others = mious({name: preset(name, size, root) for name in shown}, 1)
    return [
        Claim("MobileNetV2, real weights less from scratch, mIoU", float(gain), ">= 0.10"),
        *(
            Claim(f"{name} from scratch, mIoU", float(np.mean(values)), ">= 0")
            for name, values in others.items()
        ),
    ]


def preset(name: str, size: Size, root: Path) -> Callable[[int], Training]:
    """Return what trains a preset from scratch with a seed."""
    chosen = TrainSettings(model=name, weights="random")
    return lambda seed: training(name, chosen, seed, size, root)


def training(name: str, chosen: TrainSettings, seed: int, size: Size, root: Path) -> Training:
    """Return the training on the photographs, measured on those of the split val."""
    train, val = (VocFolder(root, split, ()) for split in ("train", "val"))
    recipe = replace(recipe_of(chosen, seed), steps=STEPS[size], crop=CROP)
    samples = InMemory(ArraySet(train, train.classes))
    truth = ArraySet(val, train.classes)
    return Training(name, samples, content(root), train.classes, recipe, len(val), truth=truth)


@cache
def content(root: Path) -> str:
    """Return the SHA-256 of the folder's images, labels and lists."""
    found = hashlib.sha256()
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        for path in sorted((root / part).iterdir()):
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


if __name__ == "__main__":
    run(
        "real",
        main,
        {"root": "photographs in VOC layout", "weights": "torchvision's mobilenet_v2 .pth file"},
    )
