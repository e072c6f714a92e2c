"""Recipe: what decides a training's weights, how it runs, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from models.segmenters.networks import Segmenter
from models.segmenters.samples import Augmentation
from models.segmenters.snapshots import Snapshots
from models.segmenters.weight_files import WeightsFile

__all__ = ["Execution", "Trained", "TrainingRecipe"]


# fields that are younger than stored checkpoints, with the value that made those
_ADDED_SINCE: dict[str, Any] = {"ema": 0.0}


@dataclass(frozen=True)
class TrainingRecipe:
    """What decides the weights, apart from the data.

    `learning_rate` is the peak learning rate of `Muon`; `crop` is (H, W) in pixels, None for the
    first sample's size. `weights` are files of initial weights, later ones stronger; what they lack
    is random. With `schedule` "config", optimiser, decay, rates, crop and scaling are those of the
    config, and `weight_decay`, `warmup` and `scale` are not used. `precision` is "auto" (probed),
    "fp32", "bf16", "fp16", or "fp64" for comparisons without rounding. `ema` is the decay per step
    of an average of the weights, in [0, 1); 0 is none. With it, every 20th sample chooses between
    the average and the last weights, and is not trained on.
    """

    config: str
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: int = 100
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.75, 1.33)
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: tuple[WeightsFile, ...] = ()
    schedule: str = "segmint"
    seed: int = 0
    precision: str = "auto"
    ema: float = 0.0

    def identity(self) -> dict[str, Any]:
        """Return the fields as JSON values, which name checkpoints and snapshots.

        Fields that are younger than stored checkpoints are left out at the value that made those.
        """
        fields = asdict(self)
        return {
            name: value
            for name, value in fields.items()
            if name not in _ADDED_SINCE or value != _ADDED_SINCE[name]
        }


@dataclass(frozen=True)
class Execution:
    """How a training runs; on a CPU nothing of it changes the weights.

    `device` is "auto", "cpu" or "cuda". `gpus` is the number of processes that share each batch:
    one per GPU, on a CPU any number. They change the weights by rounding, and by draws within the
    network (see `sharing`). `workers` is the number of loading processes of each, 0 for none.
    `progress` gets a row of the curve every `every` steps, with `steps` and `images_per_second`.
    A training that finds its own state in `snapshots` resumes from it.
    """

    device: str = "auto"
    gpus: int = 1
    workers: int = 0
    progress: Callable[[dict[str, float]], None] | None = None
    every: int = 25
    snapshots: Snapshots | None = None

    def resolve_device(self) -> str:
        """Return the device; "auto" is CUDA if there is any, else the CPU."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def check(self, batch_size: int) -> None:
        """Raise `ValueError` for more GPUs than there are, or that cannot share a batch evenly."""
        if batch_size % self.gpus:
            raise ValueError(
                f"train.gpus is {self.gpus}, which does not divide train.batch_size, {batch_size}: "
                "every process takes an equal part of each batch; change one of them"
            )
        found = torch.cuda.device_count() if self.resolve_device() == "cuda" else self.gpus
        if self.gpus > found:
            raise ValueError(
                f"train.gpus is {self.gpus}, and this machine shows {found}; lower it, or let "
                "CUDA_VISIBLE_DEVICES show more"
            )


@dataclass(frozen=True)
class Trained:
    """A segmenter, how it was trained, and its training curve.

    Rows of the curve are `step`, mean `loss` since the row before, and `learning_rate`. `weights`
    says of each file of initial weights how much of it was used (see `Loaded.summary`).
    `validation` says how the average and the last weights compared (see `choose_weights`); None
    without an average.
    """

    segmenter: Segmenter
    curve: list[dict[str, float]]
    precision: str
    seconds: float
    weights: list[dict[str, Any]]
    validation: dict[str, Any] | None = None
