"""Several processes, one training: each takes batches of its own, and all step by the mean of their
gradients.

On a CPU, one process a core trains half as fast again as one process with a thread a core, whose
threads wait for each other at every small layer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import distributed, nn

__all__ = ["agree", "average_gradients", "place", "side_by_side"]

Value = TypeVar("Value")


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    return (
        (distributed.get_rank(), distributed.get_world_size())
        if distributed.is_initialized()
        else (0, 1)
    )


@contextmanager
def side_by_side(processes: int, work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Inside, this process is the first of `processes`; the others do `work(*arguments)` meanwhile.

    One process changes nothing. `work` and its arguments have to be picklable. The cores are shared
    out as threads.
    """
    if processes == 1:
        yield
        return
    context, threads = get_context("spawn"), torch.get_num_threads()
    with TemporaryDirectory() as folder:
        jobs = [
            (Path(folder) / "meeting", rank, processes, work, arguments)
            for rank in range(processes)
        ]
        others = [context.Process(target=_accompany, args=job, daemon=True) for job in jobs[1:]]
        for process in others:
            process.start()
        try:
            _join(*jobs[0][:3])
            yield
        finally:
            distributed.destroy_process_group()
            torch.set_num_threads(threads)
            for process in others:
                process.join(
                    10
                )  # they end with the training; if that failed here, nothing else ends them
                process.kill()


def _accompany(
    meeting: Path, rank: int, processes: int, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    _join(meeting, rank, processes)
    work(*arguments)


def _join(meeting: Path, rank: int, processes: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    distributed.init_process_group(
        "gloo", init_method=meeting.as_uri(), rank=rank, world_size=processes
    )


def agree(value: Value) -> Value:
    """The first process's value, in all."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def average_gradients(modules: nn.Module) -> None:
    """Replace every gradient by its mean over the processes."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in modules.parameters() if p.grad is not None]
    sums = torch.cat(
        [g.flatten() for g in gradients]
    )  # one message: many small ones take far longer
    distributed.all_reduce(sums)
    means = torch.split(sums / distributed.get_world_size(), [g.numel() for g in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))
