"""A limit on what a foreign model's description can make a process allocate while it is built.

A description of a few bytes can ask for a million layers or for tensors larger than any memory. The
weights beside it say how large the model really is, so the description may not ask for much more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Limit", "SizeError", "limit_of", "limited"]

_FACTORIES = {
    torch.arange,
    torch.empty,
    torch.full,
    torch.linspace,
    torch.logspace,
    torch.ones,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
    torch.zeros,
}


class SizeError(ValueError):
    """A description asks for a larger model than was expected."""


@dataclass(frozen=True)
class Limit:
    """Most tensors, and most numbers in all of them together."""

    tensors: int
    numbers: int


# Building the 236 different models that mmsegmentation ships and this installation can build took
# at most 3.2 times as many tensors as their weights have, and 3.6 times as many numbers.
_MORE = 8
_AT_LEAST = Limit(1 << 10, 1 << 22)


def limit_of(shapes: Iterable[tuple[int, ...]]) -> Limit:
    """Return the limit for a model with weights of these shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    return Limit(_AT_LEAST.tensors + _MORE * len(sizes), _AT_LEAST.numbers + _MORE * sum(sizes))


class limited(TorchFunctionMode):  # noqa: N801  # a context manager, called like a function
    """Raise `SizeError` before torch makes more new tensors in this thread than `limit` allows."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self._limit = limit
        self._tensors = 0
        self._numbers = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count what the call will make, then make it."""
        options = kwargs or {}
        given = (*args, *options.values())
        if func in _FACTORIES:
            self._count(1, _asked(given))
        elif len(tensors := [each for each in given if isinstance(each, torch.Tensor)]) > 1:
            self._count(0, _broadcast(tensors))
        # other calls pass always: leaving `torch.no_grad` is one
        return func(*args, **options)

    def _count(self, tensors: int, numbers: int) -> None:
        self._tensors += tensors
        self._numbers += numbers
        if self._tensors > self._limit.tensors or self._numbers > self._limit.numbers:
            raise SizeError(
                f"it asks for over {self._limit.tensors} tensors or {self._limit.numbers} numbers"
            )


def _asked(arguments: tuple[Any, ...]) -> int:
    """Return the size that `empty([2, 3])`, `empty(2, 3)` or `linspace(0, 1, 100)` ask for."""
    numbers = [each for each in arguments if type(each) is int]
    shapes = [each for each in arguments if isinstance(each, list | tuple)]
    return max(*numbers, *map(math.prod, (numbers, *shapes)), 1)


def _broadcast(tensors: list[torch.Tensor]) -> int:
    try:
        shapes = (each.shape for each in tensors)
        return math.prod(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    except RuntimeError:  # no operation by elements, such as a concatenation
        return sum(each.numel() for each in tensors)
