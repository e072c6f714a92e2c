"""DiffuMask's steps between attention and mask: seeds, affinities, the walk along them, and the
threshold that fits.
"""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.embedded import world
from models.masks import (
    GRID,
    IGNORE,
    AffinityNet,
    SeedRule,
    adaptive_threshold,
    affinity_loss,
    binary_crf,
    class_seeds,
    object_scores,
    pair_affinity,
    pair_offsets,
    random_walk,
    seed_labels,
    seed_thresholds,
    train_affinity,
    two_label_certainty,
    walk_labels,
)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(np.stack([drawing.image for drawing in DRAWINGS]))


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return torch.from_numpy(np.stack([drawing.label for drawing in DRAWINGS])) > 0


@pytest.fixture(scope="module")
def maps(truth: Tensor) -> Tensor:
    """As attention is: the object, blurred far beyond its border, and something of the ground."""
    blurred = F.avg_pool2d(truth[:, None].float(), 25, 1, 12)[:, 0] + 0.2
    return blurred / blurred.amax((1, 2), keepdim=True)


DRAWINGS = [
    world.draw_scene(world.sample_scene(np.random.default_rng(i), [name]))
    for i, name in enumerate(["car", "house", "mug", "tree"])
]


def dense(affinity: Tensor, power: int) -> Tensor:
    """The transition matrix (B, hw, hw), columns summing to one."""
    batch, _, height, width = affinity.shape
    matrix = torch.eye(height * width).repeat(batch, 1, 1)
    for channel, (dy, dx) in enumerate(pair_offsets()):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    here, there = y * width + x, (y + dy) * width + x + dx
                    matrix[:, here, there] = matrix[:, there, here] = (
                        affinity[:, channel, y, x] ** power
                    )
    return matrix / matrix.sum(1, keepdim=True)


def test_the_strict_threshold_is_above_the_permissive_one(maps: Tensor) -> None:
    strict, permissive = seed_thresholds(maps, SeedRule(strict=0, permissive=0))
    assert (strict > permissive).all()


def test_seeds_are_right_where_they_say_something_and_silent_along_the_border(
    images: Tensor, maps: Tensor, truth: Tensor
) -> None:
    label = seed_labels(images, maps)
    said = label != IGNORE
    assert ((label == 1) == truth)[said].float().mean() > 0.97
    assert (label == 1).flatten(1).any(1).all()
    assert (label == 0).flatten(1).any(1).all()
    assert (~said).flatten(1).any(1).all()


def test_a_side_that_is_too_small_moves_its_threshold() -> None:
    ramp = torch.linspace(0, 1, 100).repeat(100, 1)[None] ** 4  # a sixth is over 0.49
    few, many = (seed_thresholds(ramp, SeedRule(least=least)).strict for least in (0.01, 0.2))
    assert many < few


def test_radius_five_has_34_pairs_a_place() -> None:
    offsets = pair_offsets(5)
    assert len(offsets) == 34
    assert len({*offsets, *((-y, -x) for y, x in offsets)}) == 68


def test_the_loss_of_constant_features_is_that_of_pairs_across_alone() -> None:
    affinity = pair_affinity(torch.ones(1, 4, 12, 12))
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    assert affinity_loss(affinity, labels) == 0
    labels[:, :, 6:] = 3
    torch.testing.assert_close(
        affinity_loss(affinity, labels), torch.tensor(0.5 * -np.log(1e-5), dtype=torch.float32)
    )


def test_what_is_unsaid_or_beyond_the_border_is_in_no_pair() -> None:
    features = torch.rand(1, 4, 8, 8)
    labels = torch.full((1, 8, 8), IGNORE)
    assert affinity_loss(pair_affinity(features), labels) == 0
    labels[0, 4, 4] = 1
    assert affinity_loss(pair_affinity(features), labels) == 0


def test_the_walk_is_the_dense_matrix_squared_again_and_again() -> None:
    generator = torch.Generator().manual_seed(0)
    affinity = pair_affinity(3 * torch.rand(2, 6, 9, 7, generator=generator))
    scores = torch.rand(2, 3, 9, 7, generator=generator)
    matrix = dense(affinity, power=16)
    for _ in range(8):
        matrix = matrix @ matrix
        torch.testing.assert_close(matrix.sum(1), torch.ones(2, 63), atol=1e-4, rtol=0)
    exact = (scores.flatten(2) @ matrix).view_as(scores)
    torch.testing.assert_close(random_walk(scores, affinity), exact, atol=1e-4, rtol=0)


def test_a_walk_between_strangers_goes_nowhere() -> None:
    scores, affinity = torch.rand(1, 2, 8, 8), torch.full((1, 34, 8, 8), 0.5)
    torch.testing.assert_close(random_walk(scores, affinity, power=64), scores, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_net_that_learnt_from_seeds_knows_the_pairs_of_the_truth(
    images: Tensor, maps: Tensor, truth: Tensor
) -> None:
    torch.manual_seed(0)
    net, pixels = AffinityNet(width=16, features=16), images.permute(0, 3, 1, 2) / 255
    seeds, exact = (
        labels[:, 1::4, 1::4] for labels in (seed_labels(images, maps), truth.to(torch.uint8))
    )
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        affinity = pair_affinity(net(pixels))
        losses.append(float(affinity_loss(affinity.detach(), exact)))
        affinity_loss(affinity, seeds).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.5 * losses[0]


@pytest.fixture(scope="module")
def coarse(truth: Tensor) -> Tensor:
    """Attention of two classes (4, 2, 16, 16): the object's, and one that is nowhere."""
    lead = F.adaptive_avg_pool2d(truth[:, None].float(), 16)
    return torch.cat([F.avg_pool2d(lead, 3, 1, 1) + 0.2, torch.full_like(lead, 0.2)], 1)


@pytest.fixture(scope="module")
def learnt(images: Tensor, coarse: Tensor) -> AffinityNet:
    torch.manual_seed(0)
    net = AffinityNet(width=16, features=16)
    seeds = class_seeds(images, object_scores(coarse[:, :1], (128, 128))[:, 1:])
    losses: list[float] = []
    train_affinity(
        net, repeat((images, seeds)), steps=40, report=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < 0.6 * losses[0] and not net.training
    return net


@pytest.mark.slow
def test_the_walk_and_its_threshold_label_the_object(
    images: Tensor, coarse: Tensor, truth: Tensor, learnt: AffinityNet
) -> None:
    found = walk_labels(images, coarse[:, :1], [7], learnt)
    assert set(found.label.unique().tolist()) <= {0, 7, IGNORE}
    inside = found.label == 7
    iou = (inside & truth).sum((1, 2)) / (inside | truth).sum((1, 2))
    assert iou.mean() > 0.8
    assert ((found.consistency > 0) & (found.consistency <= 1) & (found.confidence <= 1)).all()


def test_a_picture_without_classes_is_ground_alone(
    images: Tensor, coarse: Tensor, learnt: AffinityNet
) -> None:
    blank = walk_labels(images, coarse[:, :0], [], learnt)
    assert (blank.label == 0).all() and (blank.confidence == 1).all()


def test_seeds_of_two_classes_leave_out_what_both_claim(images: Tensor, maps: Tensor) -> None:
    seeds = class_seeds(images, torch.stack([maps, maps], 1))
    assert set(seeds.unique().tolist()) == {0, IGNORE}
    other = maps.roll(1, 0)  # of another picture
    seeds = class_seeds(images, torch.stack([maps, other], 1))
    first, second = (seed_labels(images, of_class) for of_class in (maps, other))
    assert torch.equal(seeds == 1, (first == 1) & (second != 1))
    assert torch.equal(seeds == 2, (second == 1) & (first != 1))
    assert torch.equal(seeds == 0, (first == 0) & (second == 0))


@pytest.mark.slow
def test_the_threshold_whose_mask_is_the_reference_is_found(images: Tensor, maps: Tensor) -> None:
    certainty = two_label_certainty(0.5, 21)
    level = GRID[7]
    reference = (
        binary_crf(images, torch.where(maps[:, None] > level, certainty, 1 - certainty))[:, 0] > 0.5
    )
    found = adaptive_threshold(images, maps, reference)
    assert found.agreement.shape == (4, 20)
    assert (found.agreement.amax(1) == 1).all()
    assert (found.threshold <= level).all()  # the lowest of those with the same mask
    assert (found.mask == reference).all()


@pytest.mark.slow
def test_a_reference_that_no_mask_meets_gives_an_empty_one(images: Tensor, maps: Tensor) -> None:
    assert not adaptive_threshold(images, maps, torch.zeros_like(maps, dtype=torch.bool)).mask.any()
