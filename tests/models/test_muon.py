"""Muon: what kind of step each weight takes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.muon import Muon, orthogonal
from models.parallel import divided, rank_and_count, side_by_side


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(40, 32),
        nn.Linear(32, 48),
        nn.Conv2d(48, 24, 3),
        nn.LayerNorm(24),
        nn.Linear(24, 5),
    )


def moved(parts: nn.Sequential, **options: Any) -> dict[str, Tensor]:
    """Change of each weight by one step of rate 0.1 without decay, with random gradients."""
    before = {name: weight.detach().clone() for name, weight in parts.named_parameters()}
    optimiser = Muon(parts, 0.1, 0.0, **options)
    for weight in parts.parameters():
        weight.grad = torch.randn_like(weight)
    optimiser.step()
    return {name: weight.detach() - before[name] for name, weight in parts.named_parameters()}


def is_orthogonal(step: Tensor) -> bool:
    values = torch.linalg.svdvals(step.flatten(1))
    return bool(values.max() < 2 * values.min())


def test_hidden_matrices_and_convolutions_take_orthogonal_steps_of_adamws_size() -> None:
    steps = moved(network())
    for name in ("1.weight", "2.weight"):
        assert is_orthogonal(steps[name])
        assert 0.1 * 0.2 * 0.6 < steps[name].square().mean().sqrt() < 0.1 * 0.2 * 1.3


def test_embeddings_narrow_matrices_and_vectors_take_adamws_steps() -> None:
    steps = moved(network())
    for name in set(steps) - {"1.weight", "2.weight"}:
        assert torch.allclose(steps[name].abs(), torch.tensor(0.1), atol=1e-4), (
            name
        )  # AdamW's first step


def test_what_is_named_plain_is_left_to_adamw() -> None:
    parts = network()
    assert torch.allclose(
        moved(parts, plain=[parts[1].weight])["1.weight"].abs(), torch.tensor(0.1), atol=1e-4
    )


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_orthogonal_keeps_singular_vectors_and_evens_their_values(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(matrices)
    for matrix, even in zip(matrices, found, strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inner = left.mT @ even @ right.mT
        assert (inner.diagonal() > 0.6).all() and (inner.diagonal() < 1.3).all()
        assert (inner - inner.diagonal().diag()).abs().max() < 1e-3
        assert torch.allclose(orthogonal(matrix[None])[0], even, atol=1e-5)


def test_rate_and_state_are_those_that_are_seen_from_outside() -> None:
    parts = network()
    optimiser = Muon(parts, 0.1, 0.0)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    before = [weight.detach().clone() for weight in parts.parameters()]
    for weight in parts.parameters():
        weight.grad = torch.randn_like(weight)
    optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(before, parts.parameters(), strict=True))
    assert len(optimiser.state_dict()["state"]) == len(before)
    optimiser.zero_grad()
    assert all(weight.grad is None for weight in parts.parameters())


def test_a_restored_optimiser_goes_on_as_the_one_that_was_saved() -> None:
    ends = []
    for stop in (False, True):
        parts = network()
        optimiser = Muon(parts, 0.01, 0.1)
        for step in range(4):
            if stop and step == 2:
                saved = optimiser.state_dict()
                optimiser = Muon(parts, 0.01, 0.1)
                optimiser.load_state_dict(saved)
            generator = torch.Generator().manual_seed(step)
            for weight in parts.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimiser.step()
        ends.append([weight.detach().clone() for weight in parts.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert all(math.isfinite(float(weight.abs().max())) for weight in ends[0])


def _train(folder: Path) -> None:
    """Save weights and momenta after three steps, with gradients equal in all processes."""
    rank, count = rank_and_count()
    parts = nn.Sequential(*network(), nn.Linear(32, 48), nn.Linear(48, 24), nn.Linear(20, 24))
    optimiser = Muon(parts, 0.01, 0.1, divide=divided)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for weight in parts.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimiser.step()
    momenta = {index: each["momentum"] for index, each in _matrices(optimiser).items()}
    torch.save([parts.state_dict(), momenta], folder / f"{rank} of {count}.pt")


def _matrices(optimiser: Muon) -> dict[int, Any]:
    state = optimiser.state_dict()["state"]
    return {index: each for index, each in state.items() if "momentum" in each}


@pytest.mark.slow
def test_processes_that_divide_the_matrices_end_in_the_same_weights(tmp_path: Path) -> None:
    with side_by_side(2, _train, tmp_path):
        _train(tmp_path)
    _train(tmp_path)
    first, second, alone = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for name in ("0 of 2", "1 of 2", "0 of 1")
    )
    assert len(first[1]) == 5  # any process can write a snapshot, and any number can resume from it
    for one, other, single in zip(first, second, alone, strict=True):
        assert one.keys() == single.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
        assert all(torch.allclose(value, single[name], atol=1e-6) for name, value in one.items())
