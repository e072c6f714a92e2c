"""Snapshots: the state that a training resumes from, as one safetensors file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from models.segmenters.hooks import Curve, TrainingError
from models.segmenters.openmmlab import EMAHook, Hook

__all__ = ["Resume", "Snapshots", "read_snapshot"]


@dataclass(frozen=True)
class Snapshots:
    """Where a training keeps the state that it resumes from: a file, a bucket, a dict.

    `read` returns None if there is no state. `write` must store all of it or nothing.
    """

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]
    seconds: float = 60.0  # between two snapshots: the work that an interruption can cost


class Resume(Hook):  # type: ignore[misc]  # mmengine has no types
    """Resume a training from the `saved` state, and write new state when a row of the curve ends.

    The state is complete: weights, the optimiser's state (`Muon`: momentum of hidden matrices,
    AdamW's moments of all else; a config's: its tensors), the average of the weights if there is
    one, torch's random generators and the curve. So the steps after it are those of an
    uninterrupted training. It is one safetensors file; its JSON notes are a tensor.

    Processes other than the first have no `snapshots`: they load the same state and write none.
    """

    priority = "LOW"  # after `Curve` has closed its row

    def __init__(
        self,
        snapshots: Snapshots | None,
        notes: dict[str, Any],
        curve: Curve,
        saved: Mapping[str, Any] | None,
        average: EMAHook | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._notes = notes
        self._curve = curve
        self._saved = saved
        self._average = average

    def before_train(self, runner: Any) -> None:
        """Load the saved state; without one, write the initial state."""
        self._written = time.monotonic()
        if self._saved is None:  # a resumed training keeps the precision that was probed here
            if self._snapshots:
                self._snapshots.write(self._pack(runner, 0))
            return
        tensors, notes = self._saved["tensors"], self._saved["notes"]
        runner.model.load_state_dict(_under(tensors, "model."))
        if self._average:
            self._average.ema_model.load_state_dict(_under(tensors, "average."))
        _load_optimizer(runner.optim_wrapper.optimizer, _under(tensors, "optimizer."))
        _set_generators(_under(tensors, "generator."))
        runner.train_loop._iter = notes["step"]
        self._curve.rows.extend(notes["curve"])

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a snapshot if one is due."""
        if self._snapshots is None:
            return
        step = runner.iter + 1
        due = time.monotonic() - self._written >= self._snapshots.seconds
        row_ends = bool(self._curve.rows) and self._curve.rows[-1]["step"] == step
        if due and row_ends and step < self._curve.steps:
            self._snapshots.write(self._pack(runner, step))
            self._written = time.monotonic()

    def _pack(self, runner: Any, step: int) -> bytes:
        notes = json.dumps({**self._notes, "step": step, "curve": self._curve.rows})
        tensors = {f"model.{name}": value for name, value in runner.model.state_dict().items()}
        averaged = self._average.ema_model.state_dict() if self._average else {}
        tensors |= {f"average.{name}": value for name, value in averaged.items()}
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
