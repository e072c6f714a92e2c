"""What happens between the steps of a training, as mmengine hooks.

Learning rate, training curve and progress, snapshots and resuming.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch

from models.segmenters.openmmlab import Hook

__all__ = [
    "Begin",
    "Curve",
    "Resume",
    "Schedule",
    "Schedulers",
    "Snapshots",
    "TrainingError",
    "read_snapshot",
]

Row = dict[str, float]


class TrainingError(RuntimeError):
    """The training cannot continue; the message says why and what to change."""


@dataclass(frozen=True)
class Snapshots:
    """Where a training keeps the state that it resumes from: a file, a bucket, a dict.

    `read` returns None if there is no state. `write` must store all of it or nothing.
    """

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]
    seconds: float = 60.0  # between two snapshots: the work that an interruption can cost


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


@dataclass
class Curve(Hook):  # type: ignore[misc]  # mmengine has no types
    """Keep the training curve, one row every `every` steps, and pass each row to `progress`."""

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
            "loss": float(torch.stack(self._losses).mean()),
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


class Resume(Hook):  # type: ignore[misc]  # mmengine has no types
    """Resume a training from the `saved` state, and write new state when a row of the curve ends.

    The state is complete: weights, the optimiser's state (`Muon`: momentum of hidden matrices,
    AdamW's moments of all else; a config's: its tensors), torch's random generators and the curve.
    So the steps after it are those of an uninterrupted training. It is one safetensors file; its
    JSON notes are a tensor.
    """

    priority = "LOW"  # after `Curve` has closed its row

    def __init__(
        self,
        snapshots: Snapshots,
        notes: dict[str, Any],
        curve: Curve,
        saved: Mapping[str, Any] | None,
    ) -> None:
        self._snapshots = snapshots
        self._notes = notes
        self._curve = curve
        self._saved = saved

    def before_train(self, runner: Any) -> None:
        """Load the saved state; without one, write the initial state."""
        self._written = time.monotonic()
        if self._saved is None:  # a resumed training keeps the precision that was probed here
            self._snapshots.write(self._pack(runner, 0))
            return
        tensors, notes = self._saved["tensors"], self._saved["notes"]
        runner.model.load_state_dict(_under(tensors, "model."))
        _load_optimizer(runner.optim_wrapper.optimizer, _under(tensors, "optimizer."))
        _set_generators(_under(tensors, "generator."))
        runner.train_loop._iter = notes["step"]
        self._curve.rows.extend(notes["curve"])

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a snapshot if one is due."""
        step = runner.iter + 1
        due = time.monotonic() - self._written >= self._snapshots.seconds
        row_ends = bool(self._curve.rows) and self._curve.rows[-1]["step"] == step
        if due and row_ends and step < self._curve.steps:
            self._snapshots.write(self._pack(runner, step))
            self._written = time.monotonic()

    def _pack(self, runner: Any, step: int) -> bytes:
        notes = json.dumps({**self._notes, "step": step, "curve": self._curve.rows})
        tensors = {f"model.{name}": value for name, value in runner.model.state_dict().items()}
        for index, moments in runner.optim_wrapper.optimizer.state_dict()["state"].items():
            kept = {name: value for name, value in moments.items() if value is not None}
            tensors |= {f"optimizer.{index}.{name}": value for name, value in kept.items()}
        tensors |= {f"generator.{name}": value for name, value in _generators().items()}
        tensors["notes"] = torch.frombuffer(bytearray(notes.encode()), dtype=torch.uint8)
        return safetensors.torch.save(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        )


def read_snapshot(snapshots: Snapshots | None, notes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state to resume from, {"tensors", "notes"}.

    None if there is none, or if its training had other notes. Raises `TrainingError` for a state
    that cannot be read.
    """
    content = snapshots.read() if snapshots else None
    if content is None:
        return None
    try:
        tensors = safetensors.torch.load(content)
        found = dict(json.loads(bytes(tensors.pop("notes").tolist())))
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise TrainingError(
            f"snapshot.safetensors of the training is damaged ({error}); "
            "delete the file to start again"
        ) from error
    same = all(found.get(name) == json.loads(json.dumps(value)) for name, value in notes.items())
    return {"tensors": tensors, "notes": found} if same else None


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, moment = name.partition(".")
        state.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _generators() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_generators(states: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
