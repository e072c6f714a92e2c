"""Data-parallel training: each process has its own batches, and all use the mean gradient.

On a CPU, one process per core trains 1.5 times as fast as one process with one thread per core,
whose threads wait for each other at every small layer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from models.companions import Companion, end_with, first_failure, watched

__all__ = [
    "agree",
    "average",
    "average_gradients",
    "divided",
    "rank_and_count",
    "side_by_side",
]

Value = TypeVar("Value")
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def rank_and_count() -> tuple[int, int]:
    """Return this process's rank, from 0, and the number of processes."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextmanager
def side_by_side(
    processes: int, work: Callable[..., Any], *arguments: Any, cuda: bool = False
) -> Iterator[None]:
    """Make this process the first of `processes`; the others run `work(*arguments)` meanwhile.

    `work` and its arguments have to be picklable. Each process gets its share of the threads, and
    with `cuda` the GPU of its rank. With one process nothing changes.

    If another process fails, what it raised is raised here. If it was killed, `DeadProcessError`
    is. The others end with this process, however it ends.
    """
    if processes == 1:
        yield
        return
    threads = torch.get_num_threads()
    hook = sys.excepthook  # torch replaces it by one that writes "[rank0]:"
    with TemporaryDirectory() as folder:
        group = (Path(folder) / "meeting", processes, max(1, threads // processes), cuda)
        others: list[Companion] = []
        failed = True
        try:
            for rank in range(1, processes):
                job = (os.getpid(), group, rank, work, arguments)
                others.append(Companion(rank, processes, _accompany, job))
            for other in others:
                other.wait_until_ready()
            _join(*group, rank=0)
            with watched(others, _abort if cuda else None):
                yield
            failed = False
        except RuntimeError as error:
            raise first_failure(others) or error from None
        finally:
            for other in others:
                other.end(killed=failed)
            if distributed.is_initialized():
                distributed.destroy_process_group()
            torch.set_num_threads(threads)
            sys.excepthook = hook


def _accompany(
    ready: Callable[[], None],
    parent: int,
    group: tuple[Path, int, int, bool],
    rank: int,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    end_with(parent)
    ready()
    _join(*group, rank=rank)
    work(*arguments)


def _join(meeting: Path, processes: int, threads: int, cuda: bool, *, rank: int) -> None:
    """Join the group, whose processes hear each other on this machine's own interface only."""
    torch.set_num_threads(threads)
    before = {name: os.environ.get(name) for name in _INTERFACES}
    os.environ.update(dict.fromkeys(_INTERFACES, "lo"))
    device = torch.device("cuda", rank) if cuda else None
    if cuda:
        torch.cuda.set_device(rank)
    try:
        distributed.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=meeting.as_uri(),
            rank=rank,
            world_size=processes,
            device_id=device,  # connects NCCL now, not at the first step
        )
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})


def _abort() -> None:
    """End what waits for a dead process. gloo notices a closed connection; NCCL waits for ever."""
    distributed.distributed_c10d._abort_process_group()


def agree(value: Value) -> Value:
    """Return the first process's value in all processes."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def average(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes; gradients pass through it."""
    if not distributed.is_initialized():
        return values
    mean: Tensor = _Mean.apply(values)  # type: ignore[no-untyped-call]
    return mean


class _Mean(torch.autograd.Function):
    """The mean over the processes. Each process's own loss depends on the values of all."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        """Return the mean."""
        mean = values.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(mean)
        return mean.div_(distributed.get_world_size())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Return the mean of the gradients: the sum of all losses is divided by their number."""
        return average(gradients[0])


def average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes.

    A weight that has a gradient in some processes only gets one in all of them.
    """
    if not distributed.is_initialized():
        return
    every = list(weights)
    missing = [weight.grad is None for weight in every]
    used = average(torch.tensor(missing, dtype=torch.float32, device=every[0].device)) < 1
    chosen = [weight for weight, wanted in zip(every, used.tolist(), strict=True) if wanted]
    for weight in chosen:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    gradients = [weight.grad for weight in chosen if weight.grad is not None]
    # one message: many small ones take far longer
    means = average(torch.cat([g.flatten() for g in gradients]))
    parts = torch.split(means, [g.numel() for g in gradients])
    for gradient, mean in zip(gradients, parts, strict=True):
        gradient.copy_(mean.view_as(gradient))


def divided(
    items: Sequence[Tensor],
    costs: Sequence[float],
    work: Callable[[list[Tensor]], list[Tensor]],
) -> list[Tensor]:
    """Return `work(items)`; each process computes a part, and gets the rest from the others.

    The items, of one dtype, are the same in all processes, and so are then the results, to the bit.
    `work` gives a tensor of each item's shape and dtype. `costs` are what each item takes, in any
    unit; every process gets about the same.
    """
    rank, count = rank_and_count()
    if count == 1 or not items:
        return work(list(items))
    shares = _shares(costs, count)
    sizes = [sum(items[index].numel() for index in share) for share in shares]
    own = work([items[index] for index in shares[rank]])
    message = items[0].new_zeros(max(sizes))  # messages of one size: NCCL takes no others
    message[: sizes[rank]] = torch.cat([items[0].new_empty(0), *(each.flatten() for each in own)])
    messages = [torch.empty_like(message) for _ in shares]
    distributed.all_gather(messages, message)
    found = list(items)
    for share, size, received in zip(shares, sizes, messages, strict=True):
        parts = torch.split(received[:size], [items[index].numel() for index in share])
        for index, part in zip(share, parts, strict=True):
            found[index] = part.view_as(items[index])
    return found


def _shares(costs: Sequence[float], count: int) -> list[list[int]]:
    """Return `count` lists of positions with about equal sums of costs: the largest first."""
    shares: list[list[int]] = [[] for _ in range(count)]
    totals = [0.0] * count
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        least = totals.index(min(totals))
        shares[least].append(index)
        totals[least] += costs[index]
    return shares
