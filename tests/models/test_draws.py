"""Which sample each position of a training sees."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Subset

from models.segmenters.draws import MOST, Order, even_shares, shares_of
from models.segmenters.samples import TrainingView, Views
from tests.models.test_segmenters import Squares


def draws(order: Order, positions: int) -> NDArray[np.int64]:
    return np.array([order[position] for position in range(positions)])


def shown(*groups: tuple[int, tuple[int, ...]]) -> NDArray[np.bool_]:
    """Return which of three classes samples show; each group is a number of equal samples."""
    rows = [[name in names for name in range(3)] for count, names in groups for _ in range(count)]
    return np.array(rows, bool)


class Shared(Squares):
    """Squares of which the first is drawn as often as all others together."""

    def __init__(self, count: int = 24) -> None:
        super().__init__(count)
        self.shares = np.array([count - 1.0] + [1.0] * (count - 1))


def test_without_shares_each_epoch_is_the_permutation_that_it_always_was() -> None:
    order = Order(seed=7, size=10)
    for epoch in range(3):
        before = np.random.default_rng((7, 0, epoch)).permutation(10)
        assert [order[10 * epoch + at] for at in range(10)] == before.tolist()


def test_with_shares_each_sample_is_drawn_as_often_as_its_share_says() -> None:
    shares = np.array([0.25, 2.5, 1.0, 0.0, 1.25])
    order = Order(0, 5, shares)
    for epoch in range(20):
        counts = np.bincount([order[5 * epoch + at] for at in range(5)], minlength=5)
        assert (counts >= np.floor(shares)).all() and (counts <= np.ceil(shares)).all()
    counts = np.bincount(draws(order, 5 * 400), minlength=5)
    assert counts / 400 == pytest.approx(shares, abs=0.1)


def test_draws_depend_on_seed_and_position_alone() -> None:
    shares = np.random.default_rng(0).uniform(0.5, 2, 50)
    drawn = draws(Order(3, 50, shares), 200)
    again = Order(3, 50, shares)
    backwards = [again[position] for position in reversed(range(200))]
    assert drawn.tolist() == backwards[::-1]
    assert (drawn[:50] != drawn[50:100]).any()
    assert (drawn != draws(Order(4, 50, shares), 200)).any()


def test_every_class_has_an_equal_part_of_the_draws() -> None:
    labels = shown((60, (0,)), (30, (1,)), (10, (2,)))
    parts = even_shares(labels) @ labels
    assert parts == pytest.approx([100 / 3] * 3)
    drawn = draws(Order(0, 100, even_shares(labels)), 300)
    assert labels[drawn].sum(0).tolist() == pytest.approx([100, 100, 100], abs=3)


def test_classes_that_occur_together_are_even_too() -> None:
    labels = shown((50, (0,)), (20, (0, 1)), (20, (1, 2)), (10, (2,)))
    parts = even_shares(labels) @ labels
    assert parts == pytest.approx([parts.mean()] * 3, rel=1e-2)


def test_samples_without_a_class_keep_their_part() -> None:
    shares = even_shares(shown((40, (0,)), (10, (1,)), (10, ())))
    assert shares[50:].tolist() == [1.0] * 10
    assert shares[:50].mean() == pytest.approx(1)


def test_a_class_of_one_sample_does_not_fill_the_training() -> None:
    shares = even_shares(shown((999, (0,)), (1, (1,))))
    assert shares.max() == pytest.approx(MOST, rel=0.02) and shares[-1] == shares.max()


def test_a_class_that_only_comes_with_another_stays_rarer_but_all_samples_are_seen() -> None:
    shares = even_shares(shown((50, (0,)), (50, (0, 1))))
    assert shares[50:].mean() > 5 * shares[:50].mean() > 0


def test_even_classes_need_no_shares() -> None:
    assert even_shares(shown((7, (0,)), (7, (1,)), (7, (2,)))) == pytest.approx(np.ones(21))
    assert even_shares(shown((4, ()))).tolist() == [1.0] * 4


def test_a_class_of_twice_the_weight_is_shown_twice_as_often() -> None:
    labels = shown((50, (0,)), (20, (0, 1)), (20, (1, 2)), (10, (2,)))
    parts = even_shares(labels, classes=np.array([2.0, 1.0, 1.0])) @ labels
    assert parts == pytest.approx([2 * parts[1], parts[1], parts[1]], rel=1e-2)


def test_equal_samples_are_drawn_by_their_weights_and_classes_stay_even() -> None:
    labels = shown((60, (0,)), (30, (1,)), (10, ()))
    weights = np.array([3.0, 1.0, 1.0] * 30 + [3.0, 1.0] * 5)
    shares = even_shares(labels, samples=weights)
    assert shares[0] == pytest.approx(3 * shares[1]) and shares[60] == pytest.approx(3 * shares[61])
    assert shares[:60].sum() == pytest.approx(shares[60:90].sum())
    assert shares[90:].tolist() == weights[90:].tolist()


def test_weights_of_one_are_no_weights() -> None:
    labels = shown((50, (0,)), (20, (0, 1)), (20, (1, 2)), (10, ()))
    same = even_shares(labels, np.ones(3), np.ones(100))
    assert same.tolist() == even_shares(labels).tolist()


def test_parts_and_joined_sets_keep_their_shares() -> None:
    assert shares_of(Squares()) is None
    assert shares_of(ConcatDataset([Squares(2), Squares(3)])) is None
    joined: ConcatDataset[Any] = ConcatDataset([Shared(3), Squares(2)])
    found = shares_of(Subset(joined, [0, 1, 4]))
    assert found is not None and found.tolist() == [2.0, 1.0, 1.0]


def test_a_resumed_training_sees_what_an_uninterrupted_one_does() -> None:
    views = Views(60, 3, crop=(32, 32), scale=(0.75, 1.33), seed=5)
    whole = TrainingView(Shared(), views)
    rest = TrainingView(Shared(), views, start=20)
    for position in (0, 5, 39):
        assert torch.equal(rest[position]["inputs"], whole[20 + position]["inputs"])
