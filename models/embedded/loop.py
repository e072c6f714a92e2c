"""The training loop of the embedded models: resumable, with averaged weights, in the faster
precision.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.muon import Muon
from models.parallel import agree, average_gradients, divided, rank_and_count

__all__ = ["Progress", "Schedule", "fit"]

Loss = Callable[[nn.ModuleDict, int], Tensor]
_SAVE_SECONDS = 180.0
_BETAS = (0.9, 0.99)  # of AdamW, which trains what is no hidden matrix


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule: linear warm-up, constant, linear to zero.

    `learning_rate` is the peak, `warmup` the steps of the rise, `decay` the share of the steps with
    the fall, `average` the decay of the exponential average of the weights.
    """

    steps: int
    learning_rate: float
    warmup: int = 300
    decay: float = 0.3
    average: float = 0.999
    weight_decay: float = 0.01

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, left)


@dataclass(frozen=True)
class Progress:
    """What `fit` reports: steps done and in all, mean loss since the last, steps per second."""

    step: int
    steps: int
    loss: float
    rate: float


def fit(
    modules: nn.ModuleDict,
    loss: Loss,
    schedule: Schedule,
    folder: Path,
    *,
    report: Callable[[Progress, nn.ModuleDict], None] | None = None,
    report_every: int = 100,
    dtype: torch.dtype | None = None,
) -> nn.ModuleDict:
    """Train `modules` on `loss(modules, step)`; return their exponential average in eval mode.

    State is saved to `folder/state.pt`; a later call resumes from it. `loss` must draw its
    randomness from the step alone, so that a resumed training meets the same batches. `dtype` None
    is the faster of float32 and bfloat16. Each process of `side_by_side` has a batch per step.
    """
    rank, processes = rank_and_count()
    folder.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(modules).eval().requires_grad_(False)
    optimiser = _optimiser(modules, schedule)
    step = _restore(folder / "state.pt", modules, average, optimiser)
    dtype = agree(dtype or (_faster(modules, loss) if step < schedule.steps else torch.float32))
    meter = _Meter(schedule.steps, report_every)
    saved = time.monotonic()
    while step < schedule.steps:
        rate = schedule.rate(step)
        meter.add(_update(modules, loss, optimiser, step * processes + rank, rate, dtype))
        _blend(average, modules, min(schedule.average, (step + 1) / (step + 10)))
        step += 1
        if rank:  # only the first process saves, logs and reports
            continue
        if progress := meter.due(step):
            _log(folder / "log.jsonl", progress)
            if report:
                report(progress, average)
            meter.reset()
        if time.monotonic() - saved > _SAVE_SECONDS or step == schedule.steps:
            _save(folder / "state.pt", modules, average, optimiser, step)
            saved = time.monotonic()
    return average


def _optimiser(modules: nn.ModuleDict, schedule: Schedule) -> Muon:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    return Muon(modules, rate, decay, betas=_BETAS, divide=divided)


class _Meter:
    """Mean loss and speed since the last report."""

    def __init__(self, steps: int, every: int) -> None:
        self._steps = steps
        self._every = every
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self._total = 0.0
        self._count = 0
        self._since = time.monotonic()

    def add(self, loss: float) -> None:
        """Count a step."""
        self._total += loss
        self._count += 1

    def due(self, step: int) -> Progress | None:
        """Return what to report after this step; None between two reports."""
        if step % self._every and step < self._steps:
            return None
        seconds = time.monotonic() - self._since
        return Progress(step, self._steps, self._total / self._count, self._count / seconds)


def _update(
    modules: nn.ModuleDict, loss: Loss, optimiser: Muon, step: int, rate: float, dtype: torch.dtype
) -> float:
    with _training(modules, dtype):
        value = loss(modules, step)
    value.backward()  # type: ignore[no-untyped-call]
    average_gradients(modules.parameters())
    nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad()
    return float(value.detach())


@contextmanager
def _training(modules: nn.ModuleDict, dtype: torch.dtype) -> Iterator[None]:
    """Set train mode and autocast.

    On a CPU attention is plain: the flash kernel's backward pass took 46 % of a step.
    """
    device = next(modules.parameters()).device.type
    kernels = [SDPBackend.MATH]
    if device != "cpu":
        kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    modules.train()
    with (
        torch.autocast(device, dtype, enabled=dtype != torch.float32),
        sdpa_kernel(kernels),
    ):
        yield


def _faster(modules: nn.ModuleDict, loss: Loss) -> torch.dtype:
    """Return the precision whose step is faster here.

    bfloat16 is twice as fast on some processors and many times slower on others.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(2):  # the first warms up
            start = time.monotonic()
            with _training(modules, dtype):
                value = loss(modules, 0)
            value.backward()  # type: ignore[no-untyped-call]
            seconds[dtype] = time.monotonic() - start
    modules.zero_grad()
    return min(seconds, key=lambda d: seconds[d])


@torch.no_grad()
def _blend(average: nn.ModuleDict, modules: nn.ModuleDict, decay: float) -> None:
    targets = [t for t in average.state_dict().values() if t.is_floating_point()]
    sources = [s for s in modules.state_dict().values() if s.is_floating_point()]
    torch._foreach_lerp_(targets, sources, 1 - decay)


def _restore(path: Path, modules: nn.ModuleDict, average: nn.ModuleDict, optimiser: Muon) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location=next(modules.parameters()).device, weights_only=True)
    modules.load_state_dict(state["modules"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(
    path: Path, modules: nn.ModuleDict, average: nn.ModuleDict, optimiser: Muon, step: int
) -> None:
    parts: dict[str, nn.Module | Muon] = {
        "modules": modules,
        "average": average,
        "optimiser": optimiser,
    }
    temporary = path.with_suffix(".part")
    torch.save(
        {name: part.state_dict() for name, part in parts.items()} | {"step": step}, temporary
    )
    temporary.replace(path)


def _log(path: Path, progress: Progress) -> None:
    row = {"step": progress.step, "loss": progress.loss, "steps_per_second": progress.rate}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
