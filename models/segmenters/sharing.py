"""A batch that several processes share: each has a part of it, and the step is that of the whole.

Gradients are averaged over the processes. That gives the gradient of the whole batch only if
nothing else depends on how it was divided. So batch norms use the statistics of the whole batch,
and losses divide by its valid pixels.

Not covered: losses that are no sum over pixels or images, such as Lovász and OHEM; and draws within
the network (dropout, the points of Mask2Former, the times of SemFlow), which differ from those of
one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from models.metrics import IGNORE
from models.parallel import average, rank_and_count
from models.segmenters.head import at_least_float
from models.segmenters.openmmlab import CrossEntropyLoss, Hook

__all__ = ["Draws", "Part", "SharedBatchNorm", "share_batches"]


class Part(Dataset[dict[str, Any]]):
    """What one process reads of a training's positions: of each batch, the part of its rank."""

    def __init__(self, view: Dataset[dict[str, Any]], batch_size: int) -> None:
        self._view = view
        self._batch_size = batch_size
        self._rank, self._count = rank_and_count()

    def __len__(self) -> int:
        return len(cast(Sized, self._view)) // self._count

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return some items by their positions in the part."""
        size = self._batch_size // self._count
        steps = [divmod(position, size) for position in positions]
        first = self._rank * size
        view = cast(Any, self._view)
        return cast(
            list[dict[str, Any]],
            view.__getitems__([step * self._batch_size + first + index for step, index in steps]),
        )


class Draws(Hook):  # type: ignore[misc]  # mmengine has no types
    """Seed each step's draws by step and rank, so that no two processes have the same.

    A resumed training then draws the same too, though its snapshot has the first process's
    generators only.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed torch's generators."""
        rank, _ = rank_and_count()
        drawn = np.random.SeedSequence((self._seed, runner.iter, rank)).generate_state(1)
        torch.manual_seed(int(drawn[0]))


def share_batches(network: nn.Module) -> None:
    """Make the batch norms and losses of a network those of the whole batch, in place."""
    for name, part in list(network.named_modules()):
        if isinstance(part, _BatchNorm):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, SharedBatchNorm.of(part))
        elif isinstance(part, CrossEntropyLoss) and part.avg_non_ignore:
            part.register_forward_hook(_by_valid_pixels, with_kwargs=True)


def _by_valid_pixels(
    loss: nn.Module, inputs: tuple[Tensor, ...], options: Mapping[str, Any], value: Tensor
) -> Tensor:
    """Return a mean over this process's valid pixels as its share of the mean over everyone's."""
    valid = (inputs[1] != options.get("ignore_index", IGNORE)).sum().to(value.dtype)
    share: Tensor = valid / average(valid).clamp_min(1 / rank_and_count()[1])
    return value * share


class SharedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes; in evaluation mode, and alone, as torch's.

    torch's own needs CUDA.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> SharedBatchNorm:
        """Return one with the weights and statistics of `norm`, not copied."""
        shared = cls(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        shared._parameters = norm._parameters
        shared._buffers = norm._buffers
        return shared.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  (torch's name)
        """Take any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Return (N, C, …) normalised by mean and variance of each channel, scaled and shifted."""
        _, count = rank_and_count()
        if not self.training or count == 1:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        values = at_least_float(input)
        mean = average(values.mean(axes))
        centred = values - mean.view(shape)
        variance = average(centred.square().mean(axes))
        self._track(mean.detach(), variance.detach(), count * values.numel() // len(mean))
        found = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Update the running statistics; as in torch, their variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # torch's sign for a plain mean over all batches
            share = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * values / max(1, values - 1), share)
