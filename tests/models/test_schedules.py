"""A training by a config's own schedule is the one that mmsegmentation would run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.segmenters import Snapshots, TrainingRecipe, pack_segmenter, train_segmenter
from models.segmenters.networks import build_segmenter
from models.segmenters.schedules import ConfigViews, read_schedule
from tests.models.test_segmenters import CLASSES, TINY, Squares

STEPS = 8
TRAINING = """
optim_wrapper = dict(
    type="OptimWrapper", clip_grad=dict(max_norm=0.1),
    optimizer=dict(type="AdamW", lr=0.01, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.), "head": dict(lr_mult=10.)}))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.25, by_epoch=False, begin=0, end=4),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=4, end=16, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=16, val_interval=4)
crop_size = (48, 40)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=3,
    dataset=dict(type="RepeatDataset", times=9, dataset=dict(pipeline=train_pipeline)))
"""


def written(folder: Path, training: str = TRAINING) -> str:
    path = folder / "whole.py"
    path.write_text(TINY + training)
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> str:
    return written(tmp_path)


@pytest.fixture
def recipe(config: str) -> TrainingRecipe:
    return TrainingRecipe(config, STEPS, 3, 0.01, schedule="config", precision="fp32")


def test_a_config_s_training_is_read_whole(config: str) -> None:
    found = read_schedule(config)
    assert (found.steps, found.batch_size, found.learning_rate) == (16, 3, 0.01)
    assert found.crop == (48, 40)
    types = [step["type"] for step in found.pipeline]
    assert types == ["RandomResize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion"]


def test_rates_and_decay_are_the_config_s_for_each_parameter(config: str) -> None:
    network = build_segmenter(config, CLASSES).network
    optimiser = read_schedule(config).build_optimiser(network, 0.01).optimizer
    assert type(optimiser).__name__ == "AdamW"
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in optimiser.param_groups:
        for name in (names[id(parameter)] for parameter in group["params"]):
            assert group["lr"] == pytest.approx(0.1 if "head" in name else 0.01)
            assert "norm" not in name or group["weight_decay"] == 0 or "head" in name


def test_the_schedule_is_stretched_to_the_number_of_steps(recipe: TrainingRecipe) -> None:
    rates: list[float] = []
    execution = _every_step(lambda row: rates.append(row["learning_rate"]))
    train_segmenter(Squares(), CLASSES, recipe, execution)
    # of 16 steps of the config, 4 warm up and 12 fall to 0; of these 8, it is 2 and 6
    assert rates == pytest.approx([0.0025, 0.01, 0.01, 0.008, 0.006, 0.004, 0.002, 0.0], abs=1e-9)


def _every_step(progress: Any, **options: Any) -> Any:
    from models.segmenters import Execution

    return Execution(progress=progress, every=1, **options)


def test_an_interrupted_training_ends_in_the_same_weights(recipe: TrainingRecipe) -> None:
    kept: list[bytes] = []
    snapshots = Snapshots(lambda: kept[-1] if kept else None, kept.append, seconds=0.0)
    whole = train_segmenter(Squares(), CLASSES, recipe, _every_step(None, snapshots=snapshots))
    del kept[4:]  # as it was after a few steps
    again = train_segmenter(Squares(), CLASSES, recipe, _every_step(None, snapshots=snapshots))
    assert pack_segmenter(whole.segmenter) == pack_segmenter(again.segmenter)
    assert [row["learning_rate"] for row in whole.curve] == pytest.approx(
        [row["learning_rate"] for row in again.curve]
    )


@pytest.mark.slow
def test_training_by_it_learns(recipe: TrainingRecipe) -> None:
    longer = replace(recipe, steps=60, batch_size=8)
    curve = train_segmenter(Squares(), CLASSES, longer).curve
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]


def test_views_are_the_pipeline_s_and_come_from_their_seed(config: str) -> None:
    views = ConfigViews(read_schedule(config))
    image, label = Squares()[0]["image"], Squares()[0]["label"]
    first, again, other = (views(image, label, (48, 40), seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (3, 48, 40) and first[1].shape == (48, 40)
    assert first[0].dtype == first[1].dtype == torch.uint8


def test_views_keep_red_red_and_labels_on_their_pixels(tmp_path: Path) -> None:
    plain = TRAINING.replace('    dict(type="PhotoMetricDistortion"),\n', "")
    views = ConfigViews(read_schedule(written(tmp_path, plain)))
    item = Squares()[0]  # a red square
    filled = []
    for seed in range(8):
        image, label = views(item["image"], item["label"], (48, 40), seed)
        if (label == 1).any():
            red, green, _ = image.float()[:, label == 1].mean(1)
            assert red > 180 and green < 80
        black = (image == 0).all(0)
        assert (label[black] == 255).all()
        filled.append(bool(black.any()))
    assert any(filled)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type="AdamW"', 'type="os.system"', "outside mmsegmentation's registry"),
        ('type="OptimWrapper"', 'type="OptimWrapper", constructor="os.system"', "registry"),
        ('type="RandomFlip"', 'type="subprocess.run"', "outside mmsegmentation's registry"),
        (
            'dict(type="RandomFlip", prob=0.5)',
            'dict(type="RandomFlip", prob="/etc/passwd")',
            "text",
        ),
        ("max_iters=16", "max_epochs=16", "no train_cfg with max_iters"),
        ("optim_wrapper", "other", "no optim_wrapper with optimizer"),
        ("lr=0.01", "rate=0.01", "KeyError"),
        ("lr=0.01", "lr=0.0", "numbers above 0"),
        ("max_iters=16", "max_iters=[16]", "TypeError"),
        ("batch_size=3", "batch_size=-3", "numbers above 0"),
        ("crop_size = (48, 40)", "crop_size = (48, 4000000)", "up to 16384"),
    ],
)
def test_what_no_training_holds_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TRAINING
    with pytest.raises(ValueError, match=message):
        read_schedule(written(tmp_path, TRAINING.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("betas=(0.9, 0.999)", "beta=0.9", "optim_wrapper"),
        ("power=1.0", "powers=1.0", "param_scheduler"),
        ("prob=0.5", "chance=0.5", "pipeline"),
        ("cat_max_ratio=0.75", "cat_max_ratio={}", "pipeline"),
    ],
)
def test_what_mmengine_cannot_build_is_found_by_the_check(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TRAINING
    config = written(tmp_path, TRAINING.replace(old, new, 1))
    network = build_segmenter(config, CLASSES).network
    with pytest.raises(ValueError, match=f"cannot use the config's {message}"):
        read_schedule(config).check(network)
    usual = written(tmp_path)
    read_schedule(usual).check(network)


@pytest.mark.slow
def test_loading_processes_change_nothing(recipe: TrainingRecipe) -> None:
    trained = [
        train_segmenter(Squares(), CLASSES, recipe, _every_step(None, workers=workers))
        for workers in (0, 2)
    ]
    assert pack_segmenter(trained[0].segmenter) == pack_segmenter(trained[1].segmenter)


def test_a_model_by_name_has_no_schedule() -> None:
    with pytest.raises(ValueError, match=r"train\.schedule is 'config', and 'segformer' is no"):
        read_schedule("segformer")
