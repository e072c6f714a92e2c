"""Mask2Former matches queries to classes, learns, and never hears of pixels of 255."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from models.parallel import average, rank_and_count, side_by_side
from models.segmenters import (
    PRESETS,
    TrainingRecipe,
    build_segmenter,
    initial_weights,
    load_weights,
    pack_segmenter,
    predict_probabilities,
    train_segmenter,
    unpack_segmenter,
)
from models.segmenters.mask_losses import mask_losses, match, targets_of
from models.segmenters.openmmlab import MODELS
from models.segmenters.queries import Predictions
from tests.models.test_segmenters import CLASSES, Squares, miou_on_squares

POINTS = 4096


def label() -> torch.Tensor:
    """A red square and a blue one on ground, and a column of 255."""
    ids = torch.zeros(32, 32, dtype=torch.long)
    ids[2:12, 2:12] = 1
    ids[16:30, 14:30] = 2
    ids[:, 31] = 255
    return ids


def perfect(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of five queries: one says blue, one ground, one red, and two no object."""
    said = torch.tensor([3, 2, 0, 3, 1])
    classes = 20 * torch.nn.functional.one_hot(said, 4).float()
    masks = torch.stack([torch.where(ids == name, 20.0, -20.0) for name in said])
    return classes, masks


def test_targets_are_the_classes_of_the_label() -> None:
    target = targets_of(label())
    assert target.ids.tolist() == [0, 1, 2]
    assert target.masks.sum((1, 2)).tolist() == [(label() == n).sum().item() for n in range(3)]
    assert target.valid[:, 31].sum() == 0 and target.valid[:, :31].all()


def test_each_class_gets_the_query_that_fits_it() -> None:
    classes, masks = perfect(label())
    target = targets_of(label())
    queries, matched = match(classes, masks, target, POINTS)
    pairs = dict(zip(target.ids[matched].tolist(), queries.tolist(), strict=True))
    assert pairs == {0: 2, 1: 4, 2: 1}


@pytest.mark.parametrize("queries", [None, 5])
def test_only_without_a_number_of_queries_is_each_matched_with_its_own_class(
    tmp_path: Path, queries: int | None
) -> None:
    (tmp_path / "config.py").write_text(f"model = {PRESETS['mask2former'] | {'queries': queries}}")
    network: Any = build_segmenter(str(tmp_path / "config.py"), CLASSES).network
    assert len(network.model.transformer_module.queries_features.weight) == (queries or 3)
    ids = label()
    ids[ids == 2] = 255
    own = torch.stack([torch.where(ids == name, 20.0, -20.0) for name in range(3)])[None]

    def loss(said: list[int]) -> float:
        classes = 20 * torch.nn.functional.one_hot(torch.tensor([said]), 4).float()
        masks = own[:, [min(each, 2) for each in said]]
        return float(network._losses(Predictions(classes, masks), [targets_of(ids)])["loss_class"])

    assert loss([0, 1, 3]) < 1e-6
    assert (loss([1, 0, 3]) > 1) == (queries is None)


def test_perfect_masks_cost_nothing_and_swapped_ones_much() -> None:
    _, masks = perfect(label())
    target = targets_of(label())
    queries = torch.tensor([2, 4, 1])
    right = mask_losses(masks[queries], target, torch.arange(3), POINTS)
    wrong = mask_losses(masks[queries.roll(1)], target, torch.arange(3), POINTS)
    # at the borders even sharp masks are half right between two pixels, and most points lie there
    assert right[0] < 0.2 * wrong[0] and right[1] < 0.3 * wrong[1]


def test_pixels_of_255_get_no_gradient_whatever_they_say() -> None:
    ids = label()
    ids[:, 20:] = 255
    target = targets_of(ids)
    for value in (-5.0, 5.0):
        masks = torch.zeros(2, 32, 32)
        masks[:, :, 22:] = value  # far enough from the valid pixels that sampling mixes none in
        masks.requires_grad_()
        torch.manual_seed(0)
        bce, dice = mask_losses(masks, target, torch.arange(2), POINTS)
        (bce + dice).backward()
        assert masks.grad is not None
        assert masks.grad[:, :, 21:].abs().max() == 0 and masks.grad[:, :, :20].abs().max() > 0


def test_a_class_under_255_alone_is_none() -> None:
    ids = label()
    ids[ids == 2] = 255
    assert targets_of(ids).ids.tolist() == [0, 1]


def test_probabilities_are_those_of_semantic_inference() -> None:
    torch.manual_seed(0)
    segmenter: Any = build_segmenter("mask2former", CLASSES)
    images = torch.randint(0, 256, (2, 3, 128, 160), dtype=torch.uint8)
    found = predict_probabilities(segmenter, images)
    assert found.shape == (2, 3, 128, 160)
    assert torch.allclose(found.sum(1), torch.ones(2, 128, 160), atol=1e-5)
    network = segmenter.network
    batch = network.data_preprocessor({"inputs": list(images.float())}, training=False)["inputs"]
    with torch.inference_mode():
        last = network.layers_of(batch)[-1]
        masks = torch.nn.functional.interpolate(last.masks, (128, 160), mode="bilinear").sigmoid()
        scores = torch.einsum("nqc,nqhw->nchw", last.classes.softmax(-1)[..., :-1], masks)
    assert torch.allclose(found, scores / scores.sum(1, keepdim=True), atol=1e-3)


def test_tensors_have_the_names_of_hugging_face_s_checkpoints() -> None:
    torch.manual_seed(0)
    names = set(build_segmenter("mask2former", CLASSES).network.state_dict())
    assert {
        "class_predictor.weight",
        "model.pixel_level_module.decoder.mask_projection.weight",
        "model.transformer_module.queries_features.weight",
        "model.transformer_module.decoder.layers.0.self_attn.k_proj.weight",
    } <= names


def test_it_comes_back_from_its_files() -> None:
    torch.manual_seed(0)
    files = pack_segmenter(build_segmenter("mask2former", CLASSES))
    assert pack_segmenter(unpack_segmenter(files)) == files


@pytest.mark.parametrize("named", ["by the config", "by train.weights"])
def test_a_file_of_a_backbone_is_what_the_backbone_starts_from(tmp_path: Path, named: str) -> None:
    torch.manual_seed(0)
    backbone = MODELS.build(PRESETS["mask2former"]["backbone"])
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    model = copy.deepcopy(PRESETS["mask2former"])
    weights = str(tmp_path / "backbone.pth")
    if named == "by the config":
        model["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": weights}
    (tmp_path / "config.py").write_text(f"model = {model}\n")
    config = str(tmp_path / "config.py")
    network = build_segmenter(config, CLASSES).network
    (file,) = initial_weights(config, None if named == "by the config" else weights)
    network.load_state_dict(load_weights(network, file).state, strict=False)
    loaded = network.get_submodule("model.pixel_level_module.encoder.body").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items())


def _loss(path: Path) -> None:
    """Save this process's losses of its part of two images, one with one class, one with three."""
    rank, count = rank_and_count()
    torch.manual_seed(0)
    network: Any = build_segmenter("mask2former", CLASSES).network
    labels = torch.stack([torch.zeros_like(label()), label()]).chunk(count)[rank]
    said = [perfect(ids) for ids in labels]
    classes, masks = (torch.stack([each[part] for each in said]) for part in (0, 1))
    found = network._losses(Predictions(classes / 20, masks), [targets_of(ids) for ids in labels])
    torch.save([float(average(value)) for value in found.values()], path / f"{rank} of {count}.pt")


@pytest.mark.slow
def test_processes_weigh_their_losses_by_the_masks_that_they_have(tmp_path: Path) -> None:
    with side_by_side(2, _loss, tmp_path):
        _loss(tmp_path)
    _loss(tmp_path)
    both, whole = (torch.load(tmp_path / f"0 of {n}.pt", weights_only=True) for n in (2, 1))
    assert both[0] == pytest.approx(whole[0], rel=1e-5)  # the class loss draws no points
    assert both[1:] == pytest.approx(whole[1:], rel=0.3)


@pytest.mark.slow
def test_it_learns() -> None:
    recipe = TrainingRecipe("mask2former", 150, 8, 8e-3, warmup=10, precision="fp32")
    assert miou_on_squares(train_segmenter(Squares(), CLASSES, recipe)) > 0.7
