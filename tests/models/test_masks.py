"""From attention to label: each step does what its paper says, and together they find objects whose
truth is known.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.embedded import world
from models.masks import (
    attention_contrast,
    grow_by_colour,
    label_maps,
    merge_resolutions,
    object_scores,
    otsu,
    pamr,
    propagate,
    refine_labels,
    split_by_colour,
)


def drawn(count: int, *names: str) -> tuple[Tensor, Tensor]:
    """Held-out scenes of these classes: images (n, 128, 128, 3) uint8 and exact labels (n, 128,
    128) uint8.
    """
    rngs = (np.random.default_rng(world.HELD_OUT + seed) for seed in range(count))
    drawings = [world.draw_scene(world.sample_scene(rng, list(names))) for rng in rngs]
    images, labels = np.stack([d.image for d in drawings]), np.stack([d.label for d in drawings])
    return torch.from_numpy(images), torch.from_numpy(labels)


def ids_of(*names: str) -> list[int]:
    return [{c["name"]: c["id"] for c in world.vocabulary()["classes"]}[name] for name in names]


def coarse(labels: Tensor, ids: list[int]) -> Tensor:
    """What attention at 16² would know at best: each class's share of every cell, (n, C, 16, 16),
    blurred a little.
    """
    shares = F.avg_pool2d(torch.stack([(labels == i).float() for i in ids], 1), 8)
    return F.avg_pool2d(shares, 3, 1, 1)


def iou(label: Tensor, truth: Tensor, class_id: int) -> Tensor:
    inside, real = label == class_id, truth == class_id
    return (inside & real).sum((1, 2)) / (inside | real).sum((1, 2))


def test_otsu_parts_two_heaps_wherever_they_lie() -> None:
    low, high = torch.full((300,), 0.1), torch.full((100,), 0.7)
    values = torch.stack([torch.cat([low, high]), torch.cat([low + 0.2, high + 0.2])])
    split = otsu(values)
    assert ((values > split[:, None]).sum(1) == 100).all()


def test_coarse_maps_count_only_where_nothing_finer_is() -> None:
    fine, rough = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 8, 8)
    alone = merge_resolutions({16: fine}, 16)
    assert torch.equal(merge_resolutions({8: rough, 16: fine}, 16), alone)
    assert not torch.equal(merge_resolutions({8: rough}, 16), alone)
    finer = fine.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(merge_resolutions({16: fine, 32: finer}, 16), alone)


def test_a_word_s_own_resolutions_count_alone_where_there_are_any() -> None:
    maps = {side: torch.rand(1, 3, side, side) for side in (8, 16, 32)}
    merged = merge_resolutions(maps, 16, [[(8,), (), (64,)]])
    coarse, usual = merge_resolutions({8: maps[8]}, 16), merge_resolutions(maps, 16)
    torch.testing.assert_close(merged[:, 0], coarse[:, 0])
    torch.testing.assert_close(merged[:, 1:], usual[:, 1:])
    assert not torch.allclose(coarse[:, 0], usual[:, 0])


def test_propagation_fills_what_belongs_together_and_leaves_the_rest() -> None:
    place = torch.arange(16)
    same = (
        (place[:, None] < 6) == (place < 6)
    ).float()  # six places attend to each other, and so do the other ten
    spark = torch.zeros(1, 1, 4, 4)
    spark[..., 0, 0] = 1
    spread = propagate(spark, same[None], 2).flatten()
    assert torch.allclose(spread[:6], torch.full((6,), 1 / 6)) and (spread[6:] == 0).all()


def test_pamr_moves_a_border_to_the_images_edge_and_keeps_the_range() -> None:
    image, truth = torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32)
    image[..., 16:], truth[..., 16:] = 1.0, 1.0
    ramp = (
        torch.linspace(-0.2, 0.8, 32).clamp(0, 1).expand(1, 1, 32, 32)
    )  # crosses 0.5 at column 22
    refined = pamr(image, ramp, 10)
    wrong = [((scores > 0.5).float()[0] != truth).float().mean() for scores in (ramp, refined)]
    assert wrong[1] < 0.3 * wrong[0]
    assert refined.min() >= 0 and refined.max() <= ramp.max()


def test_colours_find_the_object_in_a_rough_guess() -> None:
    images, truth = drawn(12, "bus")
    rough = object_scores(coarse(truth, ids_of("bus")), (128, 128))[:, 1]
    before, after = (
        iou((s > 0.5) * ids_of("bus")[0], truth, ids_of("bus")[0])
        for s in (rough, split_by_colour(images, rough))
    )
    assert (1 - after).mean() < 0.5 * (1 - before).mean()


def test_a_part_that_attention_missed_is_found_by_its_colour_and_a_shadow_is_not() -> None:
    """A red cap on a white stem, both on noisy sand, with the stem's shadow beside it; attention
    knows the cap.
    """
    noise = torch.randn(128, 128, 1, generator=torch.Generator().manual_seed(0)) * 6
    image = torch.tensor([200.0, 170.0, 120.0]) + noise
    image[70:90, 60:90] *= 0.7
    image[40:60, 40:80] = torch.tensor([200.0, 30.0, 30.0])
    image[60:90, 55:65] = torch.tensor([240.0, 240.0, 235.0])
    foreground = torch.full((1, 128, 128), 0.05)
    foreground[:, 40:60, 40:80] = 0.9
    grown = grow_by_colour(image.clamp(0, 255).byte()[None], foreground)[0] > 0.5
    assert grown[40:60, 40:80].all() and grown[60:90, 55:65].float().mean() > 0.9
    assert grown[70:90, 70:90].float().mean() < 0.05 and grown[:35].sum() == 0


@pytest.mark.parametrize("name", ["mushroom", "tree"])
def test_an_object_of_which_attention_sees_the_upper_part_grows_whole(name: str) -> None:
    images, truth = drawn(12, name)
    (class_id,) = ids_of(name)
    upper = truth.clone()
    for label in upper:
        rows = (label == class_id).any(1).nonzero().flatten()
        label[int(rows.float().quantile(0.55)) :] = 0
    foreground = object_scores(coarse(upper, [class_id]), (128, 128))[:, 1]
    before = iou((foreground > 0.5) * class_id, truth, class_id)
    after = iou((grow_by_colour(images, foreground) > 0.5) * class_id, truth, class_id)
    assert (after - before).median() > 0.1


def test_nothing_grows_where_attention_saw_nothing_or_everything() -> None:
    images, _ = drawn(1, "car")
    for foreground in (torch.full((1, 128, 128), 0.4), torch.full((1, 128, 128), 0.9)):
        assert torch.equal(grow_by_colour(images, foreground), foreground)


@pytest.mark.slow
def test_plain_maps_tell_apart_what_spread_maps_mix() -> None:
    """Both classes have the maps of both objects, and differ only in what each word attended to."""
    images, truth = drawn(12, "mug", "tree")
    ids = ids_of("mug", "tree")
    words = coarse(truth, ids)
    spread = words.sum(1, keepdim=True).expand(-1, 2, -1, -1)
    refined = refine_labels(images, spread, ids, iterations=3, band=0.1, words=words)
    mixed = refine_labels(images, spread, ids, iterations=3, band=0.1)
    for class_id in ids:
        assert (
            iou(refined.label, truth, class_id).mean()
            > 0.8
            > iou(mixed.label, truth, class_id).mean()
        )


def test_a_label_is_the_same_whatever_was_labelled_before_it() -> None:
    images, truth = drawn(4, "bird")
    maps, ids = coarse(truth, ids_of("bird")), ids_of("bird")
    together = refine_labels(images, maps, ids, iterations=3, band=0.1)
    alone = refine_labels(images[3:], maps[3:], ids, iterations=3, band=0.1)
    assert torch.equal(together.label[3:], alone.label)
    assert torch.allclose(together.confidence[3:], alone.confidence)


@pytest.mark.parametrize("names", [("car",), ("fish",), ("mug", "tree")])
def test_labels_refined_from_coarse_maps_are_close_to_the_truth(names: tuple[str, ...]) -> None:
    images, truth = drawn(12, *names)
    ids = ids_of(*names)
    refined = refine_labels(images, coarse(truth, ids), ids, iterations=3, band=0.1)
    for class_id in ids:
        assert iou(refined.label, truth, class_id).mean() > 0.8
    assert ((refined.confidence > 0) & (refined.confidence <= 1)).all()
    assert ((refined.consistency > 0.4) & (refined.consistency <= 1)).all()


def test_nearly_undecided_pixels_are_left_out() -> None:
    scores = torch.tensor([0.50, 0.56, 0.90]).reshape(1, 1, 1, 3)
    label, lead = label_maps(torch.cat([1 - scores, scores], 1), torch.tensor([[0, 7]]), 0.1)
    assert label.tolist() == [[[255, 7, 7]]]
    assert torch.allclose(lead, (2 * scores[:, 0] - 1).abs())


def test_an_image_of_nothing_is_ground_everywhere() -> None:
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    refined = refine_labels(images, torch.zeros(2, 0, 16, 16), [], iterations=3, band=0.1)
    assert not refined.label.any() and (refined.confidence == 1).all()


def test_contrast_tells_a_word_that_nothing_answers_to() -> None:
    there, missing = torch.full((16, 16), 0.1), torch.full((16, 16), 0.95)
    there[4:8, 4:8] = missing[0, 0] = 1
    found = attention_contrast(
        torch.stack([torch.stack(pair) for pair in ((there, there), (there, missing))])
    )
    assert torch.allclose(found, torch.tensor([0.9, 0.05]))
    assert attention_contrast(torch.zeros(1, 1, 16, 16)).item() == 0
    assert attention_contrast(torch.zeros(1, 0, 16, 16)).item() == 1


def test_maps_without_contrast_break_nothing() -> None:
    images, _ = drawn(1, "ball")
    refined = refine_labels(
        images, torch.full((1, 1, 16, 16), 0.5), ids_of("ball"), iterations=3, band=0.1
    )
    assert torch.isfinite(refined.confidence).all() and torch.isfinite(refined.consistency).all()
