"""Intervals of the mIoU difference of two networks, and what they keep from happening."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.evaluate.bootstrap import LEAST_IMAGES, Interval, paired_interval
from tasks.evaluate.measure import HITS, PREDICTED, TRUTH, Counts, iou_of_counts

CLASSES = 5
KNOWN = np.ones(CLASSES, bool)


def labelled(rng: np.random.Generator, images: int) -> NDArray[np.int64]:
    """Pixels (images, CLASSES) of the background and of one to three classes per image."""
    pixels = np.zeros((images, CLASSES), np.int64)
    pixels[:, 0] = 5000
    for row in pixels:
        chosen = rng.choice(np.arange(1, CLASSES), rng.integers(1, 4), replace=False)
        row[chosen] = rng.integers(300, 3000, len(chosen))
    return pixels


def network(rng: np.random.Generator, pixels: NDArray[np.int64], logit: float = 2.0) -> Counts:
    """Counts of a network that finds a varying share of each object, and takes no other for it."""
    share = 1 / (1 + np.exp(-rng.normal(logit, 1.0, pixels.shape)))
    hits = (pixels * share).astype(np.int64)
    predicted = hits.copy()
    predicted[:, 0] += (pixels - hits)[:, 1:].sum(1)
    return np.stack([hits, pixels, predicted], 1)


def miou(counts: Counts) -> float:
    return float(np.nanmean(iou_of_counts(counts.sum(0))))


def test_the_difference_is_that_of_the_pooled_counts() -> None:
    rng = np.random.default_rng(0)
    pixels = labelled(rng, 50)
    first, second = network(rng, pixels), network(rng, pixels, 3.0)
    found = paired_interval(first, second, KNOWN)
    assert found.difference == pytest.approx(miou(second) - miou(first))
    assert 0 < found.low < found.difference < found.high
    swapped = paired_interval(second, first, KNOWN)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_equal_counts_give_equal_intervals() -> None:
    rng = np.random.default_rng(1)
    pixels = labelled(rng, 30)
    first, second = network(rng, pixels), network(rng, pixels)
    found = paired_interval(first, second, KNOWN)
    assert paired_interval(first, second, KNOWN) == found
    assert paired_interval(first, first, KNOWN) == Interval(0.0, 0.0, 0.0)


def test_classes_that_do_not_count_change_nothing() -> None:
    rng = np.random.default_rng(2)
    pixels = labelled(rng, 30)
    first, second = network(rng, pixels), network(rng, pixels)
    known = np.array([True, True, True, True, False])
    found = paired_interval(first, second, known)
    second[:, (HITS, PREDICTED), 4] = 0
    assert paired_interval(first, second, known) == found
    assert paired_interval(first, second, KNOWN) != found


@pytest.mark.parametrize("images", [LEAST_IMAGES, 15, 60])
def test_equal_networks_are_seldom_told_apart(images: int) -> None:
    rng = np.random.default_rng(images)
    below = 0
    for _ in range(150):
        pixels = labelled(rng, images)
        below += paired_interval(network(rng, pixels), network(rng, pixels), KNOWN).low > 0
    assert below <= 0.06 * 150  # 2.5 % expected; more than 9 of 150 has probability 0.002


def test_a_better_network_is_told_from_a_worse_one() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(20):
        pixels = labelled(rng, 100)
        found.append(paired_interval(network(rng, pixels), network(rng, pixels, 2.5), KNOWN).low)
    assert sum(low > 0 for low in found) >= 19


@pytest.mark.slow
def test_equal_challengers_hardly_move_the_champion_and_its_reported_figure_is_unbiased() -> None:
    nights, worlds = 25, 8
    moves = 0
    biases = []
    lucky = []
    for world in range(worlds):
        rng = np.random.default_rng(world)
        decide, report = labelled(rng, 100), labelled(rng, 100)
        networks = [(network(rng, decide), network(rng, report)) for _ in range(nights)]
        champion = networks[0]
        for challenger in networks[1:]:
            if paired_interval(champion[0], challenger[0], KNOWN).low > 0:
                champion = challenger
                moves += 1
        figures = [miou(reported) for _, reported in networks]
        biases.append((miou(champion[1]) - np.mean(figures)) / np.std(figures))
        lucky.append((max(figures) - np.mean(figures)) / np.std(figures))
    assert moves / worlds <= 1.0  # "any higher mIoU" moves 1/2 + 1/3 + … + 1/25 = 2.8 times
    assert abs(np.mean(biases)) <= 2.5 / np.sqrt(worlds)  # within chance; in standard deviations
    assert np.mean(lucky) >= 1.5  # what a maximum over the nights would report too much


def test_counts_of_other_images_are_refused() -> None:
    rng = np.random.default_rng(4)
    first, second = (network(rng, labelled(rng, images)) for images in (10, 11))
    with pytest.raises(ValueError, match=r"\(10, 3, 5\) and \(11, 3, 5\); measure both"):
        paired_interval(first, second, KNOWN)
    with pytest.raises(ValueError, match="5 images are too few for an interval; measure on at le"):
        paired_interval(first[:5], first[:5], KNOWN)


def test_iou_is_hits_over_union() -> None:
    counts = np.zeros((3, CLASSES), np.int64)
    counts[HITS, :2] = 3, 0
    counts[TRUTH, :2] = 4, 5
    counts[PREDICTED, :2] = 5, 0
    assert iou_of_counts(counts).tolist()[:2] == [0.5, 0.0]
    assert np.isnan(iou_of_counts(counts)[2:]).all()
