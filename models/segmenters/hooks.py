"""What happens between the steps of a training, as mmengine hooks: rates, annealing, curve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from models.parallel import average
from models.segmenters.openmmlab import Hook

__all__ = ["Begin", "Curve", "Schedule", "Schedulers", "Stages", "TrainingError"]

Row = dict[str, float]


class TrainingError(RuntimeError):
    """The training cannot continue; the message says why and what to change."""


class Schedule(Hook):  # type: ignore[misc]  # mmengine has no types
    """Set each step's learning rate: linear warm-up, then half a cosine down to zero.

    The rate depends on the step alone, so a resumed training continues at the right one.
    """

    def __init__(self, peak: float, warmup: int, steps: int) -> None:
        self._peak = peak
        self._warmup = warmup
        self._steps = steps

    def rate(self, step: int) -> float:
        """Return the learning rate of step 0, 1, …"""
        rise = min(1.0, (step + 1) / max(1, self._warmup))
        return self._peak * rise * 0.5 * (1 + math.cos(math.pi * step / self._steps))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set the rate of every parameter group."""
        for group in runner.optim_wrapper.param_groups:
            group["lr"] = self.rate(runner.iter)


class Schedulers(Hook):  # type: ignore[misc]  # mmengine has no types
    """Step a config's schedulers after each step; a resumed training makes up for those before."""

    def __init__(self, schedulers: Sequence[Any]) -> None:
        self._schedulers = schedulers

    def before_train_epoch(self, runner: Any) -> None:
        """Go to the step at which the training begins."""
        for _ in range(runner.iter):
            self._step()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Set the rates of the next step."""
        self._step()

    def _step(self) -> None:
        for scheduler in self._schedulers:
            scheduler.step()


class Begin(Hook):  # type: ignore[misc]  # mmengine has no types
    """Start from given weights; unless they have to be `whole`, tensors that they lack stay random.

    The Runner draws random weights before it starts, so they cannot be loaded any earlier.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, whole: bool) -> None:
        self._weights = weights
        self._whole = whole

    def before_train(self, runner: Any) -> None:
        """Load them."""
        runner.model.load_state_dict(self._weights, strict=self._whole)


class Stages(Hook):  # type: ignore[misc]  # mmengine has no types
    """Tell a network whose training has stages (`at_share`) which share of the steps is done.

    The share depends on the step alone, so a resumed training continues in the right stage.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Tell it, and set training mode again: a stage decides what evaluates."""
        tell = getattr(runner.model, "at_share", None)
        if tell:
            tell(runner.iter / runner.max_iters)
            runner.model.train()


@dataclass
class Curve(Hook):  # type: ignore[misc]  # mmengine has no types
    """Keep the training curve, one row every `every` steps, and pass each row to `progress`.

    Its losses are those of the whole batch, also if several processes share it.
    """

    steps: int
    batch_size: int
    every: int
    progress: Callable[[Row], None] | None
    rows: list[Row] = field(default_factory=list)

    def before_train(self, runner: Any) -> None:
        """Start the clock."""
        self._losses: list[torch.Tensor] = []
        self._since = time.perf_counter()

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Record the loss; at the end of a row, check it and report it."""
        assert outputs is not None  # mmengine's training loop always gives them
        self._losses.append(outputs["loss"].detach())
        step = runner.iter + 1
        if step % self.every and step < self.steps:
            return
        row = {
            "step": step,
            "loss": float(average(torch.stack(self._losses).mean())),
            "learning_rate": _rate(runner),
        }
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                f"loss is {row['loss']} at step {step}: "
                f"lower learning_rate={row['learning_rate']:.1e}"
            )
        seconds = time.perf_counter() - self._since
        self.rows.append(row)
        if self.progress:
            speed = len(self._losses) * self.batch_size / seconds
            self.progress({**row, "steps": self.steps, "images_per_second": speed})
        self._losses = []
        self._since = time.perf_counter()


def _rate(runner: Any) -> float:
    return float(runner.optim_wrapper.param_groups[0]["lr"])
