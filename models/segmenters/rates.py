"""Rates: the optimiser of a training, and the hook that sets its learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from models.muon import Muon
from models.parallel import divided
from models.segmenters.hooks import Schedule, Schedulers
from models.segmenters.precision import optim_wrapper
from models.segmenters.recipe import TrainingRecipe
from models.segmenters.schedules import ConfigSchedule

__all__ = ["Rates", "rates_of"]

# largest norm of a step's gradient; lets a transformer start from random weights at a high rate
_CLIP = 1.0
# names of every head's last layer, which is trained without Muon
_LAST = ("conv_seg.", "class_predictor.")


class Rates(NamedTuple):
    """mmengine's wrapper of an optimiser, and the hook that sets the learning rate of each step."""

    optimiser: Any
    hook: Any


def rates_of(
    network: nn.Module,
    recipe: TrainingRecipe,
    schedule: ConfigSchedule | None,
    precision: str,
    device: str,
) -> Rates:
    """Return the optimiser and schedule of a config, or `Muon` with warm-up and cosine."""
    if schedule is None:
        last = [p for name, p in network.named_parameters() if any(part in name for part in _LAST)]
        muon = Muon(network, recipe.learning_rate, recipe.weight_decay, plain=last, divide=divided)
        optimiser = optim_wrapper(muon, precision, device, clip_grad={"max_norm": _CLIP})
        return Rates(optimiser, Schedule(recipe.learning_rate, recipe.warmup, recipe.steps))
    built = schedule.build_optimiser(network, recipe.learning_rate)
    options = {"clip_grad": built.clip_grad_kwargs} if built.clip_grad_kwargs else {}
    accumulated = built._accumulative_counts
    optimiser = optim_wrapper(
        built.optimizer, precision, device, accumulative_counts=accumulated, **options
    )
    return Rates(optimiser, Schedulers(schedule.build_schedulers(optimiser, recipe.steps)))
