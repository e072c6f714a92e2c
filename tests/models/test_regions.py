"""Poor maps are repaired by regions and colours, good ones are kept, and what is made is known."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models.masks import expected_iou, object_scores, refine_labels
from models.masks.choice import colour_weight, region_weight
from models.masks.regions import region_scores
from models.metrics import mask_iou

SIDE = 96


def disc(radius: float = 30.0) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return np.asarray(y**2 + x**2 < radius**2)


def picture(mask: NDArray[np.bool_], noise: float = 12.0) -> NDArray[np.uint8]:
    """A red object on green, both grainy."""
    rng = np.random.default_rng(0)
    colours = np.where(mask[..., None], (170, 80, 70), (90, 130, 80))
    return np.clip(colours + rng.normal(0, noise, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def map_of(mask: NDArray[np.bool_], side: int) -> torch.Tensor:
    return F.interpolate(torch.from_numpy(mask)[None, None].float(), size=(side, side), mode="area")


def left_half(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask & (np.arange(SIDE) < SIDE / 2))


def refined(image: NDArray[np.uint8], maps: torch.Tensor) -> NDArray[np.bool_]:
    given = torch.from_numpy(image)[None]
    label = refine_labels(given, maps, [1], iterations=3, band=0.1).label[0].numpy()
    return np.asarray(label == 1)


def test_regions_complete_an_object_that_the_map_shows_half() -> None:
    mask = disc()
    score = 0.1 + 0.8 * left_half(mask).astype(np.float32)
    found = region_scores(picture(mask), np.stack([1 - score, score]))
    assert np.allclose(found.sum(0), 1)
    assert mask_iou(score > 0.5, mask) < 0.55 and mask_iou(found[1] > found[0], mask) > 0.9


def test_regions_of_several_classes_compete() -> None:
    left, right = disc(20), disc(20)
    left, right = np.roll(left, -22, 1), np.roll(right, 22, 1)
    image = picture(left | right)
    image[right] = image[right][:, ::-1]  # blue
    parts = [np.roll(left, -8, 0) & left, np.roll(right, 8, 0) & right]
    shares = [0.05 + 0.8 * part.astype(np.float32) for part in parts]
    found = region_scores(image, np.stack([1 - shares[0] - shares[1] + 0.1, *shares])).argmax(0)
    assert mask_iou(found == 1, left) > 0.85 and mask_iou(found == 2, right) > 0.85


def test_regions_are_the_same_each_time() -> None:
    image, score = picture(disc()), map_of(disc(), SIDE)[0, 0].numpy()
    scores = np.stack([1 - score, score])
    assert np.array_equal(region_scores(image, scores), region_scores(image, scores))


@pytest.mark.parametrize("size", [(1, 40), (8, 8), (5, 64)])
def test_images_smaller_than_a_step_of_the_walk_have_regions(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = region_scores(image, np.full((2, *size), 0.5, np.float32))
    assert found.shape == (2, *size) and np.isfinite(found).all()


def test_the_worse_a_map_the_more_its_regions_count() -> None:
    mask = disc()
    weights = []
    for side in (64, 32, 16):
        lead = object_scores(map_of(mask, side), mask.shape)[0, 1].numpy()
        weights.append(region_weight(lead, lead > 0.5, side))
    rng = np.random.default_rng(0)
    noisy = np.clip(0.6 * mask + rng.normal(0, 0.3, mask.shape), 0, 1).astype(np.float32)
    assert weights == sorted(weights) and weights[0] < 0.05
    assert region_weight(noisy, noisy > 0.5, 16) > 0.9


def test_colours_count_where_they_tell_object_and_ground_apart() -> None:
    mask = disc()
    flat, grainy = picture(mask, noise=2), picture(np.zeros_like(mask), noise=25)
    assert colour_weight(flat, mask, 16) > 0.7 > 0.1 > colour_weight(grainy, mask, 16)
    assert colour_weight(flat, mask, 64) < colour_weight(flat, mask, 16)
    assert colour_weight(flat, np.ones_like(mask), 16) == 0


def test_a_good_map_is_kept_where_colours_mislead() -> None:
    mask = disc()
    # half of the object has the ground's colours, so colours and regions lead away from it
    image = picture(left_half(mask), noise=20)
    maps = map_of(mask, 64)
    own = object_scores(maps, mask.shape)[0, 1].numpy() > 0.5
    assert mask_iou(refined(image, maps), mask) >= mask_iou(own, mask) - 0.01


def test_a_poor_map_is_repaired_at_every_size() -> None:
    mask = disc()
    maps = 0.3 * map_of(mask, 16) + 0.7 * map_of(left_half(mask), 16)
    maps = maps + 0.1 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
    own = object_scores(maps, mask.shape)[0, 1].numpy() > 0.5
    assert mask_iou(own, mask) < 0.7
    for times in (1, 3):
        large = picture(mask).repeat(times, 0).repeat(times, 1)
        truth = mask.repeat(times, 0).repeat(times, 1)
        assert mask_iou(refined(large, maps), truth) > 0.85


def test_expected_iou_falls_with_doubt_and_is_the_mean_of_the_classes() -> None:
    mask = torch.from_numpy(disc())
    label = mask.to(torch.uint8)[None]
    found = {}
    for score in (1.0, 0.9, 0.6):
        share = torch.where(mask, score, 1 - score)
        found[score] = float(expected_iou(torch.stack([1 - share, share])[None], label, [1])[0])
    assert found[1.0] > 0.95 > found[0.9] > 0.6 > found[0.6]
    absent = torch.stack([(~mask).float(), mask.float(), torch.zeros(mask.shape)])[None]
    both = float(expected_iou(absent, label, [1, 2])[0])
    assert 0.5 < both < 0.7 and both < found[1.0]


@pytest.mark.parametrize("name", ["nothing", "everything", "not numbers", "one colour"])
def test_what_shows_nothing_gets_a_label_all_the_same(name: str) -> None:
    image = np.full((SIDE, SIDE, 3), 90, np.uint8) if name == "one colour" else picture(disc())
    values = {"nothing": 0.0, "everything": 1.0, "not numbers": float("nan")}
    maps = torch.full((1, 1, 16, 16), values[name]) if name in values else map_of(disc(), 16)
    found = refine_labels(torch.from_numpy(image)[None], maps, [1], iterations=3, band=0.1)
    assert found.label.shape == (1, SIDE, SIDE)
    assert set(found.label.unique().tolist()) <= {0, 1, 255}
    if name == "not numbers":  # `select` rejects it
        assert not found.confidence[0] >= 0
