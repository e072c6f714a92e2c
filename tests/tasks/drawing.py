"""A SemFlow of random weights as a checkpoint, and label maps that it draws."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from infra.settings import Settings
from infra.store import Store, publish_version, write_shard
from models.segmenters import Segmenter, build_segmenter
from tasks.train.checkpoints import write_folder
from testbed.inputs import file
from tests.models.conftest import build_pipeline
from tests.models.test_semflow import written

CLASSES = ("background", "car", "bus")
IDS = {"car": 1, "bus": 2}
SIDE = 64
COUNT = 5  # a car, a bus, both, none, a car


@cache
def tiny_flow() -> Segmenter:
    """Return a flow around the tiny pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        build_pipeline().save_pretrained(f"{folder}/tiny")
        torch.manual_seed(0)
        return build_segmenter(written(Path(folder), Path(folder, "tiny")), CLASSES)


def store_checkpoint(store: Store, name: str, segmenter: Segmenter | None = None) -> None:
    """Write a segmenter, else the tiny flow, as a finished checkpoint."""
    segmenter = segmenter or tiny_flow()
    meta = {"checkpoint": name, "version": "v", "manifest": "", "classes": segmenter.classes}
    write_folder(store, f"checkpoints/{name}", segmenter, meta)


def label_map(number: int, side: int = SIDE) -> np.ndarray:
    """Return a label map (side, side) uint8 by number; its first pixel is ignored."""
    label = np.zeros((side, side), np.uint8)
    quarter = side // 4
    if number % 5 in (0, 2, 4):
        label[quarter : 2 * quarter, 4 : 4 + quarter + number] = 1
    if number % 5 in (1, 2):
        label[quarter : 3 * quarter, side // 2 : side - 8] = 2
    label[0, 0] = 255
    return label


def publish_maps(
    store: Store,
    version: str = "maps",
    *,
    labels: Sequence[np.ndarray] | None = None,
    instances: bool = False,
    ids: dict[str, int] | None = None,
) -> None:
    """Publish label maps, their images black, in two shards; the last one may have instances."""
    found = [label_map(number) for number in range(COUNT)] if labels is None else labels
    paths = [f"versions/{version}/data/{shard:05d}" for shard in range(2)]
    for shard, path in enumerate(paths):
        part = np.stack(found[3 * shard : 3 * (shard + 1)])
        arrays: dict[str, Any] = {"image": np.zeros((*part.shape, 3), np.uint8), "label": part}
        if instances and shard:
            arrays["instance"] = np.where(part == 1, 9, 0).astype(np.uint8)
        names = [f"map {3 * shard + number}" for number in range(len(part))]
        write_shard(store, path, arrays, pd.DataFrame({"id": names}))
    meta = {"run": "nightly", "classes": IDS if ids is None else ids}
    publish_version(store, version, shards=paths, meta=meta)


def voc_maps(folder: Path, labels: Sequence[np.ndarray] | None = None, classes: str = "") -> Path:
    """Fill a folder in VOC layout with label maps alone; return it."""
    found = [label_map(number) for number in range(COUNT)] if labels is None else labels
    (folder / "SegmentationClass").mkdir(parents=True)
    for number, label in enumerate(found):
        Image.fromarray(label).save(folder / "SegmentationClass" / f"map{number}.png")
    stems = "\n".join(f"map{number}" for number in range(len(found)))
    file(folder / "ImageSets/Segmentation/train.txt", stems)
    if classes:
        file(folder / "classes.txt", classes)
    return folder


def settings(store: Store | str, **sections: Any) -> Settings:
    """Return settings of a run that draws the published label maps and keeps every image.

    Sections may be changed in part.
    """
    values: dict[str, Any] = {
        "name": "night",
        "seed": 7,
        "classes": CLASSES[1:],
        "store": {"url": store if isinstance(store, str) else store.url},
        "plan": {"images": 8, "shard_size": 3},
        "generator": {
            "path": "semflow:flow",
            "labels": "maps",
            "num_inference_steps": 2,
            "batch_size": 2,
            "device": "cpu",
        },
        "select": {
            "min_area": 0.0,
            "max_ignored": 1.0,
            "min_confidence": 0.0,
            "min_consistency": 0.0,
            "max_components": 1000,
            "min_largest": 0.0,
        },
    }
    for name, change in sections.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return Settings(**values)
