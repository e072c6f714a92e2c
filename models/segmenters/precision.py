"""The precision of a training, chosen by measurement.

bfloat16 is 2 times faster than float32 on one processor and 80 times slower on another.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from models.parallel import agree, average_gradients
from models.segmenters.openmmlab import AmpOptimWrapper, OptimWrapper, PixelData, SegDataSample

__all__ = ["AutocastOptimWrapper", "optim_wrapper", "probe_precision"]

# Half precision has to be faster by this factor, so that two probes on one machine agree and
# trainings there are repeatable.
_MARGIN = 1.1
_ROUNDS = 4  # timed steps of each precision


class SharedOptimWrapper(OptimWrapper):  # type: ignore[misc]  # mmengine has no types
    """mmengine's optimiser wrapper for steps whose batch several processes share."""

    def step(self, **options: Any) -> None:
        """Average the gradients over the processes, then clip them and step."""
        average_gradients(p for group in self.param_groups for p in group["params"])
        super().step(**options)


class ScalingOptimWrapper(SharedOptimWrapper, AmpOptimWrapper):  # type: ignore[misc]
    """The same with float16 autocast and a scaled loss; on CUDA only."""


class AutocastOptimWrapper(SharedOptimWrapper):
    """mmengine's optimiser wrapper with bfloat16 autocast on any device, not on GPUs alone."""

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
    """Return mmengine's optimiser wrapper for `precision`.

    "fp32", "fp64" and "bf16" work anywhere; "fp16", with a scaled loss, on CUDA only.
    """
    if precision == "fp16":
        return ScalingOptimWrapper(dtype="float16", optimizer=optimizer, **options)
    if precision == "bf16":
        return AutocastOptimWrapper(device, optimizer=optimizer, **options)
    return SharedOptimWrapper(optimizer=optimizer, **options)


def probe_precision(network: torch.nn.Module, shape: tuple[int, int, int], device: str) -> str:
    """Return the faster of "fp32" and half precision for training steps of `shape` (batch, H, W).

    Times steps of a copy on noise; torch's global random state advances. Several processes measure
    at once, each with its part of the batch, and the first one's result counts. On CUDA half is
    bfloat16 where the GPU has it, else float16.
    """
    with _one_thread():
        return agree(_fastest(network, shape, device))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: waiting threads count as busy and would distort the measured time."""
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
    # alternating, so that both meet the same load; the first round compiles and allocates
    for _ in range(1 + _ROUNDS):
        for name, trial in trials.items():
            seconds[name].append(trial.step_seconds())
    fastest = {name: min(taken[1:]) for name, taken in seconds.items()}
    return half if fastest[half] * _MARGIN < fastest["fp32"] else "fp32"


class _Trial:
    """A copy of a network, and the time that its training steps take."""

    def __init__(
        self, network: torch.nn.Module, shape: tuple[int, int, int], device: str, precision: str
    ) -> None:
        # an mmengine model, unknown to torch's types
        self._network: Any = copy.deepcopy(network).to(device).train()
        self._wrapper = optim_wrapper(
            torch.optim.SGD(self._network.parameters(), lr=0.0), precision, device
        )
        self._shape = shape
        self._on_gpu = device.startswith("cuda")

    def step_seconds(self) -> float:
        """Return the seconds of one step; on a CPU seconds of processor time, not of the clock."""
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
