"""The training that an mmsegmentation config describes: optimiser, rates, crops, augmentations.

| part of the config | used as |
|---|---|
| optim_wrapper | optimiser, rates and decays by parameter, clipping, accumulation |
| param_scheduler | the learning rate's schedule, stretched to the number of steps |
| train_dataloader | batch size; the pipeline between loading and packing |
| train_cfg.max_iters | number of steps |

Its model and losses are built in `networks`. Data, precision, snapshots and seeds are this
project's own: loading and packing steps of the pipeline are left out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.guard import guarded
from models.metrics import IGNORE
from models.segmenters.checks import check_training
from models.segmenters.configs import read_config
from models.segmenters.fitting import find_config, with_tuples
from models.segmenters.openmmlab import (
    OPTIM_WRAPPER_CONSTRUCTORS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    ConfigDict,
    OptimWrapper,
)

__all__ = ["ConfigSchedule", "ConfigViews", "as_results", "read_schedule"]

# steps of a pipeline that read files or pack results, which `ConfigViews` does itself
_LEFT_OUT = ("Load", "Pack")
_LARGEST = 1 << 14  # images of a batch, pixels of a crop's side


@dataclass(frozen=True)
class ConfigSchedule:
    """What a config says of its training.

    `crop` is (H, W) in pixels, or None if the pipeline does not crop. `batch_size` is that of one
    process. `learning_rate` is the optimiser's.
    """

    steps: int
    batch_size: int
    learning_rate: float
    crop: tuple[int, int] | None
    optimiser: dict[str, Any]
    schedulers: list[dict[str, Any]]
    pipeline: list[dict[str, Any]]

    def build_optimiser(self, network: nn.Module, learning_rate: float) -> OptimWrapper:
        """Return mmengine's wrapper, whose optimiser and groups are the config's."""
        config = deepcopy(self.optimiser)
        constructor = config.pop("constructor", "DefaultOptimWrapperConstructor")
        options = {"paramwise_cfg": config.pop("paramwise_cfg", None)}
        # precision is probed, not configured
        config = {**config, "type": "OptimWrapper"}
        for key in ("loss_scale", "dtype", "use_fsdp"):
            config.pop(key, None)
        config["optimizer"]["lr"] = learning_rate
        with _building("optim_wrapper"):
            build = OPTIM_WRAPPER_CONSTRUCTORS.build(
                {"type": constructor, "optim_wrapper_cfg": ConfigDict(config), **options}
            )
            return build(network)

    def build_schedulers(self, optimiser: OptimWrapper, steps: int) -> list[Any]:
        """Return the schedulers, their steps stretched from the config's number to `steps`."""
        factor = steps / self.steps
        built = []
        for config in deepcopy(self.schedulers):
            config["by_epoch"] = False
            for key in ("begin", "end", "T_max", "step_size", "total_steps"):
                if isinstance(config.get(key), int):
                    config[key] = round(config[key] * factor)
            if config.get("begin", 0) >= config.get("end", math.inf):
                continue  # a warm-up of less than half a step
            if "milestones" in config:
                config["milestones"] = [round(each * factor) for each in config["milestones"]]
            with _building("param_scheduler"):
                built.append(PARAM_SCHEDULERS.build(ConfigDict(config, optimizer=optimiser)))
        return built

    def check(self, network: nn.Module) -> None:
        """Build all of it once, and make one view of a grey image. Raises `ValueError`."""
        self.build_schedulers(self.build_optimiser(network, self.learning_rate), self.steps)
        size = self.crop or (64, 64)
        image, label = torch.full((3, *size), 128), torch.zeros(size)
        with _building("pipeline"):
            ConfigViews(self)(image.byte(), label.byte(), size, seed=0)


@contextmanager
def _building(part: str) -> Iterator[None]:
    """Guard the libraries' constructors, which raise any type for values they do not expect."""
    with guarded():
        try:
            yield
        except Exception as error:
            raise ValueError(
                f"mmengine cannot use the config's {part} ({error}); correct it"
            ) from error


def read_schedule(config: str) -> ConfigSchedule:
    """Return the training of a config file, or of a config that mmsegmentation ships.

    Raises `ValueError` for a model by name, which has no schedule, and for a config that lacks a
    part of it or measures it in epochs.
    """
    path = find_config(config)
    if path is None:
        raise ValueError(
            f"train.schedule is 'config', and {config!r} is no mmsegmentation config; "
            "give one as train.model, or set train.schedule to 'segmint'"
        )
    given = read_config(path)
    optimiser = _part(given, path, "optim_wrapper", "optimizer")
    loop = _part(given, path, "train_cfg", "max_iters")
    loader = _part(given, path, "train_dataloader", "batch_size")
    pipeline = _pipeline(loader)
    schedulers = given.get("param_scheduler") or []
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    check_training(
        {"optim_wrapper": optimiser, "param_scheduler": schedulers, "pipeline": pipeline}
    )
    steps = [with_tuples(step) for step in pipeline]
    try:
        found = ConfigSchedule(
            int(loop["max_iters"]),
            int(loader["batch_size"]),
            float(optimiser["optimizer"]["lr"]),
            _crop(steps),
            optimiser,
            schedulers,
            steps,
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its training cannot be read ({error!r}); correct it") from None
    return _checked(found, path)


def _checked(found: ConfigSchedule, path: Path) -> ConfigSchedule:
    sizes = (found.steps, found.batch_size, *(found.crop or (1, 1)))
    if min(sizes) < 1 or max(sizes[1:]) > _LARGEST or not 0 < found.learning_rate < math.inf:
        raise ValueError(
            f"{path}: max_iters, batch_size and crop_size are {sizes}, the learning rate is "
            f"{found.learning_rate}; give numbers above 0, and batches and crops up to {_LARGEST}"
        )
    return found


def _part(given: Mapping[str, Any], path: Path, name: str, needed: str) -> dict[str, Any]:
    found = given.get(name)
    if not isinstance(found, dict) or needed not in found:
        raise ValueError(
            f"{path} has no {name} with {needed}, which train.schedule='config' needs; "
            "give a config of a whole training by iterations, or set train.schedule to 'segmint'"
        )
    return found


def _pipeline(node: Any) -> list[dict[str, Any]]:
    """Return the data set's pipeline, also if the data set is wrapped in another one."""
    while isinstance(node, Mapping):
        if isinstance(node.get("pipeline"), list):
            steps = [step for step in node["pipeline"] if isinstance(step, dict)]
            return [step for step in steps if not str(step.get("type")).startswith(_LEFT_OUT)]
        node = node.get("dataset")
    return []


def _crop(pipeline: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    sizes = [step["crop_size"] for step in pipeline if "crop_size" in step]
    if not sizes:
        return None
    size = sizes[-1]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def as_results(image: Tensor, label: Tensor) -> dict[str, Any]:
    """Return image (3, H, W) RGB and label (H, W), uint8, as mmsegmentation's transforms take them.

    That is `img` (H, W, 3) BGR, as mmcv reads images, and `gt_seg_map` (H, W).
    """
    shape = tuple(label.shape)
    return {
        "img": np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]),
        "gt_seg_map": label.numpy(),
        "seg_fields": ["gt_seg_map"],
        "img_shape": shape,
        "ori_shape": shape,
        "reduce_zero_label": False,
    }


class ConfigViews:
    """A config's augmentations, applied to samples, with random draws from a seed."""

    def __init__(self, schedule: ConfigSchedule) -> None:
        self._pipeline = schedule.pipeline
        self._built: list[Any] = []

    def __call__(
        self, image: Tensor, label: Tensor, crop: tuple[int, int], seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return a view (3, *crop) and (*crop) of image (3, H, W) RGB and label (H, W), uint8.

        The transforms draw from the process's generators, which are seeded here. They see BGR, as
        in mmsegmentation. Outside of the sample the view is black and its label 255.
        """
        if not self._built:
            with _building("pipeline"):
                self._built = [TRANSFORMS.build(ConfigDict(step)) for step in self._pipeline]
        random.seed(seed)
        np.random.seed(seed)
        results = as_results(image, label)
        for transform in self._built:
            results = transform(results)
        pixels = np.clip(results["img"][..., ::-1], 0, 255).astype(np.uint8)
        seen = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        ids = torch.from_numpy(np.ascontiguousarray(results["gt_seg_map"], np.uint8))
        return _padded(seen, crop, 0), _padded(ids, crop, IGNORE)


def _padded(values: Tensor, size: tuple[int, int], fill: int) -> Tensor:
    """Return (…, *size), cut at the right and below or filled up there."""
    height, width = size
    values = values[..., :height, :width]
    pad = (0, width - values.shape[-1], 0, height - values.shape[-2])
    return nn.functional.pad(values, pad, value=fill)
