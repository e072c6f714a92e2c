"""Processes divide work by its cost, and all get all of the results."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.parallel import _shares, divided, rank_and_count, side_by_side

SIDES = (1, 5, 2, 2, 3)
COSTS = [float(side**3) for side in SIDES]


def test_alone_one_process_does_all_the_work() -> None:
    items = [torch.ones(side) for side in SIDES]
    seen: list[Tensor] = []

    def work(given: list[Tensor]) -> list[Tensor]:
        seen.extend(given)
        return [2 * each for each in given]

    found = divided(items, COSTS, work)
    assert [each.tolist() for each in found] == [[2.0] * side for side in SIDES]
    assert len(seen) == len(SIDES)


def test_the_costs_of_the_shares_are_about_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = (torch.rand(40, generator=generator) ** 3).tolist()
    shares = _shares(costs, 3)
    assert sorted(index for share in shares for index in share) == list(range(40))
    totals = [sum(costs[index] for index in share) for share in shares]
    assert max(totals) < 1.1 * min(totals)
    assert _shares([1.0], 3) == [[0], [], []]


def _divide(folder: Path) -> None:
    """Save what a process got of matrices that each process multiplies by its rank and one."""
    rank, count = rank_and_count()
    items = [torch.full((side, 2), float(side)) for side in SIDES]
    found = divided(items, COSTS, lambda given: [(rank + 1) * each for each in given])
    one = divided(items[:1], COSTS[:1], lambda given: [-each for each in given])  # none for others
    torch.save([*found, *one], folder / f"{rank} of {count}.pt")


@pytest.mark.slow
def test_each_process_computes_its_share_and_gets_the_rest(tmp_path: Path) -> None:
    with side_by_side(2, _divide, tmp_path):
        _divide(tmp_path)
    first, second = (torch.load(tmp_path / f"{rank} of 2.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    by = [1 if side == 5 else 2 for side in SIDES]  # a cost of 125 outweighs the others together
    assert [each.unique().tolist() for each in first[:-1]] == [
        [float(side * rank)] for side, rank in zip(SIDES, by, strict=True)
    ]
    assert first[-1].tolist() == [[-1.0, -1.0]]
