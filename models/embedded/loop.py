"""One training loop for the embedded models: resumable, averaged, and in whichever precision is
faster here.
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

from models.embedded.parallel import agree, average_gradients, place
from models.muon import Muon

__all__ = ["Progress", "Schedule", "fit"]

Loss = Callable[[nn.ModuleDict, int], Tensor]
_SAVE_SECONDS = 180.0
_BETAS = (0.9, 0.99)  # AdamW's, for what Muon leaves to it


@dataclass(frozen=True)
class Schedule:
    """`steps` of training: linear warm-up, constant, linear to zero over the last `decay` share;
    weights averaged.
    """

    steps: int
    learning_rate: float
    warmup: int = 300
    decay: float = 0.3
    average: float = 0.999
    weight_decay: float = 0.01

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, left)


@dataclass(frozen=True)
class Progress:
    """What `fit` reports: the step just done, of how many, the mean loss since the last report, and
    steps a second.
    """

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
    """Train `modules` on `loss(modules, step)`; returns their exponential average in eval mode.

    State goes to `folder/state.pt` every few minutes and at the end; a later call takes up from
    there, and a finished one returns at once. `loss` must draw its randomness from the step alone,
    so a resumed run sees what it would have. `dtype` None is whichever of float32 and bfloat16
    takes a step faster here. Of processes `side_by_side` each trains on steps of its own, so a step
    has as many batches as there are; the first alone saves, logs and reports.
    """
    rank, processes = place()
    folder.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(modules).eval().requires_grad_(False)
    optimiser = Muon(modules, schedule.learning_rate, schedule.weight_decay, betas=_BETAS)
    step = _restore(folder / "state.pt", modules, average, optimiser)
    dtype = agree(dtype or (_faster(modules, loss) if step < schedule.steps else torch.float32))
    saved = started = time.monotonic()
    total, count = 0.0, 0
    while step < schedule.steps:
        own, rate = step * processes + rank, schedule.rate(step)
        total, count = total + _update(modules, loss, optimiser, own, rate, dtype), count + 1
        _blend(average, modules, min(schedule.average, (step + 1) / (step + 10)))
        step += 1
        if rank:
            continue
        if step % report_every == 0 or step == schedule.steps:
            now = time.monotonic()
            progress = Progress(step, schedule.steps, total / count, count / (now - started))
            _log(folder / "log.jsonl", progress)
            if report:
                report(progress, average)
            started, total, count = time.monotonic(), 0.0, 0
        if time.monotonic() - saved > _SAVE_SECONDS or step == schedule.steps:
            _save(folder / "state.pt", modules, average, optimiser, step)
            saved = time.monotonic()
    return average


def _update(
    modules: nn.ModuleDict, loss: Loss, optimiser: Muon, step: int, rate: float, dtype: torch.dtype
) -> float:
    with _training(modules, dtype):
        value = loss(modules, step)
    value.backward()  # type: ignore[no-untyped-call]
    average_gradients(modules)
    nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad()
    return float(value.detach())


@contextmanager
def _training(modules: nn.ModuleDict, dtype: torch.dtype) -> Iterator[None]:
    """Train mode under autocast; on a CPU with plain attention, as the flash kernel's backward took
    46 % of a step.
    """
    device = next(modules.parameters()).device.type
    kernels = (
        [SDPBackend.MATH]
        if device == "cpu"
        else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    )
    modules.train()
    with (
        torch.autocast(device, dtype, enabled=dtype != torch.float32),
        sdpa_kernel([*kernels, SDPBackend.MATH]),
    ):
        yield


def _faster(modules: nn.ModuleDict, loss: Loss) -> torch.dtype:
    """Time a step of each precision: bf16 is twice as fast on some processors and many times slower
    on others.
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
    with path.open("a") as file:
        file.write(
            json.dumps(
                {"step": progress.step, "loss": progress.loss, "steps_per_second": progress.rate}
            )
            + "\n"
        )
