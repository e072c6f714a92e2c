"""Small valid files and records, which tests of malformed input and the fuzzer change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from infra.store import Store, publish_version, write_shard

__all__ = [
    "CHAMPION",
    "EVALUATION",
    "META",
    "PLAN",
    "file",
    "small_shard",
    "small_version",
    "small_voc",
]

PLAN = {
    "row": [0, 1, 2],
    "id": ["0", "1", "2"],
    "kind": ["single", "negative", "composed"],
    "prompt": ["a car", "sand", "a car"],
    "classes": [["car"], [], ["car"]],
    "phrases": [["car"], [], ["car"]],
    "background": ["sand"] * 3,
    "seed": [1, 2, 3],
    "shard": [0, 0, 1],
    "sources": [[], [], [1, 0]],
}

EVALUATION = {
    "set": "scenes",
    "fingerprint": "a" * 64,
    "images": 3,
    "miou": 0.5,
    "iou": {"car": 0.5},
}
CHAMPION = {"checkpoint": "c", "version": "v", "evaluation": EVALUATION, "budget": {"car": 1.0}}
META = {"checkpoint": "c", "version": "v", "manifest": "", "files": {}, "classes": []}


def file(path: Path, content: str | bytes) -> Path:
    """Write a file with its folders; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def small_shard(store: Store, path: str) -> None:
    """Write three samples."""
    label = np.zeros((3, 16, 16), np.uint8)
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    rows = pd.DataFrame({"id": list("abc"), "row": [0, 1, 2]})
    write_shard(store, path, {"label": label, "image": image}, rows)


def small_version(store: Store) -> Store:
    """Publish three samples as version v1; return the store."""
    shards = ["versions/v1/data/00000"]
    small_shard(store, shards[0])
    meta = {"run": "nightly", "classes": {"car": 1}}
    publish_version(store, "v1", shards=shards, meta=meta, files={"card.md": b"# v1\n"})
    return store


def small_voc(folder: Path) -> Path:
    """Fill a folder in VOC layout with one image; return it."""
    for below in ("JPEGImages", "SegmentationClass"):
        (folder / below).mkdir(parents=True)
    Image.new("RGB", (3, 2), (9, 9, 9)).save(folder / "JPEGImages" / "a.jpg")
    Image.new("L", (3, 2), 1).save(folder / "SegmentationClass" / "a.png")
    file(folder / "ImageSets/Segmentation/val.txt", "a\n")
    return folder
