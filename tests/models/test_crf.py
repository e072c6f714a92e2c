"""The lattice filters like the exact Gaussian, and mean field with either gives the same masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.embedded import world
from models.masks import Kernel, Lattice, binary_crf, two_label_certainty
from models.masks.diffumask.crf import LEAST, Pairwise, as_maps, as_points

# Of the published kind, for images of 64².
KERNELS = (Kernel(3, 3), Kernel(10, 80, 13))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(np.stack([world.draw(seed).image[::2, ::2] for seed in range(4)]))


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return torch.from_numpy(np.stack([world.draw(seed).label[::2, ::2] for seed in range(4)])) > 0


@pytest.fixture(scope="module")
def foreground(truth: Tensor) -> Tensor:
    """A coarse guess, as from attention: the object 3 pixels wider, with rounded corners."""
    blurred = F.avg_pool2d(truth[:, None].float(), 9, 1, 4)
    return torch.where(blurred > 0.3, 0.95, 0.05)


def gaussian(features: Tensor) -> Tensor:
    """The dense matrix of the kernel."""
    return torch.exp(-0.5 * torch.cdist(features, features) ** 2)


def exact_crf(images: Tensor, foreground: Tensor) -> Tensor:
    """Ten steps of two-label mean field with dense matrices."""
    height, width = images.shape[1:3]
    grid = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1
    ).float()
    where = grid.expand(len(images), -1, -1, -1)
    matrix = torch.zeros(())
    for weight, position, colour in KERNELS:
        parts = [where * 512 / (position * max(height, width))] + (
            [images.float() / colour] if colour else []
        )
        kernel = gaussian(torch.cat(parts, -1).flatten(1, 2))
        scale = kernel.sum(-1, keepdim=True).rsqrt()
        matrix = matrix + weight * scale * kernel * scale.transpose(1, 2)
    points = foreground.flatten(2).transpose(1, 2)
    q = points
    for _ in range(10):
        q = torch.sigmoid(points.logit() + matrix @ (2 * q - 1))
    return q.transpose(1, 2).reshape(foreground.shape)


def many_label_crf(images: Tensor, probabilities: Tensor) -> Tensor:
    """Ten steps of mean field of `probabilities` (B, C, H, W), C labels, as DiffuMask runs it."""
    unary = as_points(probabilities).clamp_min(LEAST).log()
    given = Pairwise(images, KERNELS)
    found = torch.softmax(unary, -1)
    for _ in range(10):
        found = torch.softmax(unary + given(found), -1)
    return as_maps(found, probabilities)


def iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1)


@pytest.mark.parametrize(("dims", "reach"), [(2, 8.0), (5, 3.0)])
def test_the_lattice_averages_as_the_gaussian_does(dims: int, reach: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = reach * torch.rand(2, 600, dims, generator=generator)
    values = torch.rand(2, 600, 3, generator=generator)
    lattice, kernel = Lattice(features), gaussian(features)
    found = lattice.filter(values) / lattice.filter(torch.ones(2, 600, 1))
    exact = (kernel @ values) / kernel.sum(-1, keepdim=True)
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.98
    assert (found - exact).abs().mean() < 0.15 * exact.std()


def test_sets_of_a_batch_do_not_touch_each_other() -> None:
    features, values = torch.rand(3, 50, 2), torch.rand(3, 50, 1)
    alone = torch.cat([Lattice(features[i : i + 1]).filter(values[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(Lattice(features).filter(values), alone)


def test_features_too_wide_to_number_are_an_error() -> None:
    with pytest.raises(ValueError, match="too many to number; use wider kernels"):
        Lattice(torch.tensor([[[0.0] * 5, [1e6] * 5]]))


@pytest.mark.slow
def test_mean_field_on_the_lattice_ends_in_the_exact_masks(
    images: Tensor, foreground: Tensor
) -> None:
    found, exact = (crf(images, foreground) > 0.5 for crf in (binary_crf, exact_crf))
    assert iou(found, exact).min() > 0.98


def test_the_field_brings_a_coarse_guess_nearer_to_the_truth(
    images: Tensor, foreground: Tensor, truth: Tensor
) -> None:
    before, after = (
        iou(maps[:, 0] > 0.5, truth).mean() for maps in (foreground, binary_crf(images, foreground))
    )
    assert after > before + 0.1


def test_two_labels_as_channels_or_as_one_are_the_same(images: Tensor, foreground: Tensor) -> None:
    two = many_label_crf(images, torch.cat([1 - foreground, foreground], 1))
    torch.testing.assert_close(two[:, 1:], binary_crf(images, foreground), atol=1e-5, rtol=0)


@pytest.mark.parametrize("certainty", [0.5, 0.7])
def test_two_labels_give_the_masks_of_many_at_equal_odds(
    images: Tensor, truth: Tensor, foreground: Tensor, certainty: float
) -> None:
    labels, hard = 21, (foreground[:, 0] > 0.5).long() * 7
    many = torch.full((*hard.shape, labels), (1 - certainty) / (labels - 1)).scatter_(
        3, hard[..., None], certainty
    )
    p = two_label_certainty(certainty, labels)
    two = binary_crf(images, torch.where(hard[:, None] > 0, p, 1 - p))[:, 0] > 0.5
    assert iou(many_label_crf(images, many.movedim(3, 1)).argmax(1) == 7, two).min() > 0.99


def test_thresholds_are_problems_of_their_own(images: Tensor, foreground: Tensor) -> None:
    other = 1 - foreground
    both = binary_crf(images, torch.cat([foreground, other], 1))
    torch.testing.assert_close(both[:, :1], binary_crf(images, foreground), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[:, 1:], binary_crf(images, other), atol=1e-5, rtol=0)


def test_a_blank_image_and_one_sure_label_stay_what_they_are() -> None:
    blank = torch.full((1, 16, 16, 3), 200, dtype=torch.uint8)
    for value in (0.0, 1.0):
        found = binary_crf(blank, torch.full((1, 1, 16, 16), value))
        torch.testing.assert_close(found, torch.full_like(found, value), atol=1e-6, rtol=0)
