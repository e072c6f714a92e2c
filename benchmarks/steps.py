"""Is a training step here as fast as in mmengine's plain Runner, with the same config and data?

Both train the default SegFormer in fp32 on a published version of drawn scenes, by the optimiser,
schedule and augmentations of one config, loading in the training's own process. They take turns;
medians of the steps count, without the first ones of each turn.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
import pandas as pd

import segmint.mmseg  # noqa: F401  (registers the data set)
from benchmarks.claims import Claim, Size, run
from infra.store import SegmentationDataset, Store, publish_version, write_shard
from models.segmenters import DrawnScenes, Execution, TrainingRecipe, train_segmenter
from models.segmenters.fitting import fit_model
from models.segmenters.openmmlab import Config, Hook, Runner, isolated
from models.segmenters.presets import PRESETS

SCENES = 256
STEPS = {"quick": 6, "default": 30, "full": 200}  # of a turn
SKIPPED = 3  # steps at the beginning of a turn
ROUNDS = {"quick": 1, "default": 4, "full": 4}
BATCH = 16
CLASSES = DrawnScenes.classes
CONFIG = """
custom_imports = dict(imports=["segmint.mmseg"])
default_scope = "mmseg"
model = {model}
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=6e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0))
param_scheduler = [dict(type="PolyLR", power=1.0, begin=0, end={steps}, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters={steps}, val_interval=100000)
train_pipeline = [
    dict(type="RandomResize", scale=(128, 128), ratio_range=(0.75, 1.33), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size={batch}, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="SegmintDataset", store={store!r}, pipeline=train_pipeline))
"""


class Clock(Hook):  # type: ignore[misc]  # mmengine has no types
    """Notes the seconds of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the seconds of each step but the first ones."""
        return list(np.diff(self.ends)[SKIPPED - 1 :])


def main(size: Size) -> list[Claim]:
    times: dict[str, list[float]] = {"ours": [], "Runner": []}
    with tempfile.TemporaryDirectory() as folder:
        store = published(Path(folder))
        config = written(Path(folder), store, STEPS[size])
        for _ in range(ROUNDS[size]):
            times["ours"] += ours(config, store, STEPS[size])
            times["Runner"] += plain(config, Path(folder) / "work")
    medians = {name: float(np.median(values)) for name, values in times.items()}
    print(", ".join(f"{name}: {value:.4f} s per step" for name, value in medians.items()))
    return [Claim("step over mmengine's", medians["ours"] / medians["Runner"], "<= 1.05")]


def published(folder: Path) -> Store:
    """Return a store with one version of drawn scenes."""
    store = Store.open(str(folder / "store"))
    scenes = [DrawnScenes(SCENES, first=0)[index] for index in range(SCENES)]
    arrays = {name: np.stack([scene[name] for scene in scenes]) for name in ("image", "label")}
    table = pd.DataFrame({"id": [scene["id"] for scene in scenes]})
    shard = "versions/drawn/data/00000"
    write_shard(store, shard, arrays, table)
    ids = {name: number for number, name in enumerate(CLASSES) if number}
    publish_version(store, "drawn", shards=[shard], meta={"run": "drawn", "classes": ids})
    return store


def written(folder: Path, store: Store, steps: int) -> str:
    path = folder / "config.py"
    model = pformat(fit_model(PRESETS["segformer"], len(CLASSES)))
    path.write_text(CONFIG.format(model=model, steps=steps, batch=BATCH, store=store.url))
    return str(path)


def ours(config: str, store: Store, steps: int) -> list[float]:
    ends: list[float] = []
    execution = Execution(every=1, progress=lambda row: ends.append(time.perf_counter()))
    recipe = TrainingRecipe(config, steps, BATCH, 6e-4, schedule="config", precision="fp32")
    train_segmenter(SegmentationDataset(store.url, "drawn"), CLASSES, recipe, execution)
    return list(np.diff(ends)[SKIPPED - 1 :])


def plain(config: str, work: Path) -> list[float]:
    clock = Clock()
    with isolated():
        chosen = Config.fromfile(config)
        chosen.work_dir, chosen.log_level = str(work), "ERROR"
        runner = Runner.from_cfg(chosen)
        runner.register_hook(clock)
        runner.train()
    return clock.seconds()


if __name__ == "__main__":
    run("steps", main)
