"""The average of a training's weights: resumed bit for bit, and chosen if it segments better."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from models.segmenters import (
    Execution,
    Snapshots,
    TrainingRecipe,
    build_segmenter,
    pack_segmenter,
    train_segmenter,
)
from models.segmenters.averaging import choose_weights, split_samples
from tests.models.test_segmenters import CLASSES, TINY, Squares


@pytest.fixture
def recipe(tmp_path: Path) -> TrainingRecipe:
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return TrainingRecipe(str(path), 6, 4, 8e-3, warmup=2, precision="fp32", ema=0.5)


def followed(recipe: TrainingRecipe) -> tuple[list[bytes], Any]:
    kept: list[bytes] = []
    snapshots = Snapshots(lambda: kept[-1] if kept else None, kept.append, seconds=0.0)
    execution = Execution(every=1, snapshots=snapshots)
    return kept, lambda: train_segmenter(Squares(), CLASSES, recipe, execution)


@pytest.mark.slow
def test_the_average_is_that_of_each_step_s_weights_also_if_resumed(recipe: TrainingRecipe) -> None:
    kept, train = followed(recipe)
    whole = train()
    name = "decode_head.conv_seg.weight"
    states = [safetensors.torch.load(content) for content in kept[1:]]
    expected = states[0][f"model.{name}"]
    for state in states[1:]:
        expected = 0.5 * expected + 0.5 * state[f"model.{name}"]
    assert torch.allclose(states[-1][f"average.module.{name}"], expected, atol=1e-7)
    del kept[4:]  # as it was after three steps
    resumed = train()
    assert pack_segmenter(whole.segmenter) == pack_segmenter(resumed.segmenter)
    assert whole.validation == resumed.validation


@pytest.mark.parametrize("better", ["ema", "last"])
def test_the_weights_that_segment_held_out_samples_better_are_taken(
    recipe: TrainingRecipe, better: str
) -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter(recipe.config, CLASSES)
    ground = segmenter.network.state_dict()
    # one network that says ground everywhere, and one that says red, which is less of an image
    states = {"ema" if better == "ema" else "last": saying(ground, 0)}
    states["last" if better == "ema" else "ema"] = saying(ground, 1)
    segmenter.network.load_state_dict(states["last"])
    told = choose_weights(segmenter, states["ema"], Squares(6), "cpu")
    assert told["chosen"] == better and told["images"] == 6
    assert told[better] == max(told["ema"], told["last"]) > min(told["ema"], told["last"])
    taken = segmenter.network.state_dict()["decode_head.conv_seg.bias"]
    assert torch.equal(taken, states[better]["decode_head.conv_seg.bias"])


def saying(state: dict[str, torch.Tensor], name: int) -> dict[str, torch.Tensor]:
    bias = torch.zeros(3)
    bias[name] = 1e4
    return {**state, "decode_head.conv_seg.bias": bias}


def test_held_out_samples_are_not_trained_on() -> None:
    training, held_out = split_samples(Squares(45), ema=0.9)
    assert held_out is not None
    chosen = [held_out[index]["id"] for index in range(3)]
    assert chosen == ["square 0", "square 20", "square 40"]
    trained = {training[index]["id"] for index in range(42)}
    assert len(trained) == 42 and not trained & set(chosen)


def test_without_an_average_every_sample_is_trained_on(recipe: TrainingRecipe) -> None:
    samples = Squares()
    assert split_samples(samples, ema=0.0) == (samples, None)
    plain = replace(recipe, ema=0.0, steps=1)
    assert train_segmenter(samples, CLASSES, plain).validation is None


def test_a_single_sample_cannot_be_held_out(recipe: TrainingRecipe) -> None:
    with pytest.raises(ValueError, match=r"the labelled set has only one; set train\.ema to 0"):
        train_segmenter(Squares(1), CLASSES, recipe)
