"""Which arithmetic a training uses: measured, as bfloat16 is 2× faster on one processor and 80×
slower on another.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from models.segmenters.openmmlab import AmpOptimWrapper, OptimWrapper, PixelData, SegDataSample

__all__ = ["AutocastOptimWrapper", "optim_wrapper", "probe_precision"]

# Half precision has to win by this much, so that two probes on one machine agree and trainings
# there are repeatable.
_MARGIN = 1.1
_ROUNDS = 4


class AutocastOptimWrapper(OptimWrapper):  # type: ignore[misc]  # mmengine has no types
    """mmengine's optimiser wrapper with bfloat16 autocast on any device; its own one is for GPUs
    only.
    """

    def __init__(self, device: str, **options: Any) -> None:
        super().__init__(**options)
        self._device = torch.device(device).type

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Run the forward pass in bfloat16."""
        with super().optim_context(model), torch.autocast(self._device, torch.bfloat16):
            yield


def optim_wrapper(
    optimizer: torch.optim.Optimizer, precision: str, device: str, **options: Any
) -> OptimWrapper:
    """mmengine's wrapper for `precision`:

    "fp32", "bf16" anywhere, or "fp16" with a scaled loss on CUDA.
    """
    if precision == "fp16":
        return AmpOptimWrapper(dtype="float16", optimizer=optimizer, **options)
    if precision == "bf16":
        return AutocastOptimWrapper(device, optimizer=optimizer, **options)
    return OptimWrapper(optimizer=optimizer, **options)


def probe_precision(network: torch.nn.Module, shape: tuple[int, int, int], device: str) -> str:
    """The fastest of full and half precision by timing training steps of a copy on noise, `shape` =
    (batch, H, W).

    Global random state advances; on CUDA half is bfloat16 where the GPU has it, else float16.
    """
    with _one_thread():
        return _fastest(network, shape, device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: threads that wait for one another count as busy and spoil the measured
    time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fastest(network: torch.nn.Module, shape: tuple[int, int, int], device: str) -> str:
    half = "fp16" if device.startswith("cuda") and not torch.cuda.is_bf16_supported() else "bf16"
    trials = {name: _Trial(network, shape, device, name) for name in ("fp32", half)}
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(
        1 + _ROUNDS
    ):  # in turns, so that both see the machine alike; the first round compiles and allocates
        for name, trial in trials.items():
            seconds[name].append(trial.step_seconds())
    fastest = {name: min(taken[1:]) for name, taken in seconds.items()}
    return half if fastest[half] * _MARGIN < fastest["fp32"] else "fp32"


class _Trial:
    """A copy of a network and what a training step of it takes."""

    def __init__(
        self, network: torch.nn.Module, shape: tuple[int, int, int], device: str, precision: str
    ) -> None:
        self._network: Any = (
            copy.deepcopy(network).to(device).train()
        )  # an mmengine model, unknown to torch's types
        self._wrapper = optim_wrapper(
            torch.optim.SGD(self._network.parameters(), lr=0.0), precision, device
        )
        self._shape, self._on_gpu = shape, device.startswith("cuda")

    def step_seconds(self) -> float:
        """Seconds of one step: of the processor's time on a CPU, which other processes don't
        change.
        """
        clock = time.perf_counter if self._on_gpu else time.process_time
        start = clock()
        self._network.train_step(_noise(self._shape), self._wrapper)
        if self._on_gpu:
            torch.cuda.synchronize()
        return clock() - start


def _noise(shape: tuple[int, int, int]) -> dict[str, list[Any]]:
    batch, *size = shape
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *size, dtype=torch.long)))
        for _ in range(batch)
    ]
    return {
        "inputs": list(torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)),
        "data_samples": samples,
    }
