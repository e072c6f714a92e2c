"""mmsegmentation's own Runner trains on a published version and measures itself on it."""

from pathlib import Path
from typing import Any

import pytest

from infra.store import Store
from models.segmenters.openmmlab import Config, Runner, isolated
from segmint.mmseg import SegmintDataset
from tests.models.test_segmenters import TINY
from tests.tasks.segmenting import VERSION, publish_squares

BASE = Path(__file__).parents[1] / "examples/mmsegmentation/version.py"
RUN = f"""
_base_ = [{str(BASE)!r}]
{TINY.replace("num_classes=150", "num_classes=3")}
model["pretrained"] = None
model["backbone"]["init_cfg"] = None
model["data_preprocessor"]["size"] = (64, 64)
norm_cfg["type"] = "BN"
model["decode_head"]["norm_cfg"] = norm_cfg
train_pipeline = [dict(type="RandomCrop", crop_size=(64, 64)), dict(type="PackSegInputs")]
train_dataloader = dict(batch_size=4, dataset=dict(store={{store!r}}, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(store={{store!r}}))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=60, val_interval=60)
val_cfg = dict(type="ValLoop")
randomness = dict(seed=0)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    publish_squares(store)
    return store


def test_samples_are_those_of_the_version_in_bgr(store: Store) -> None:
    data = SegmintDataset(store.url, pipeline=[{"type": "LoadImageFromFile"}])
    assert len(data) == 12 and data.metainfo["classes"] == ("background", "car", "bus")
    cars = [item for item in map(data.__getitem__, range(12)) if (item["gt_seg_map"] == 1).any()]
    assert len(cars) == 6
    for item in cars:
        blue, _, red = item["img"][item["gt_seg_map"] == 1].mean(0)
        assert red > 200 and blue < 60  # cars are red


@pytest.mark.slow
def test_the_real_runner_trains_and_measures(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "run.py"
    path.write_text(RUN.format(store=store.url))
    with isolated():
        config = Config.fromfile(path)
        config.work_dir = str(tmp_path / "work")
        config.log_level = "ERROR"
        runner: Any = Runner.from_cfg(config)
        runner.train()
        measured = runner.val()
    assert measured["mIoU"] > 45  # 25 if everything is background


def test_a_version_can_be_named(store: Store) -> None:
    publish_squares(store, "later-0123abcd", count=4)
    assert len(SegmintDataset(store.url)) == 4
    assert len(SegmintDataset(store.url, VERSION)) == 12
