"""mmengine and mmsegmentation, imported without their warnings and used without side effects.

Both change process-wide state: named loggers that print, message hubs, scopes, the multiprocessing
start method, OpenCV's threads, global random generators. `isolated()` restores all of it on exit.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import cv2
import numpy as np
import torch

with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
    # torch.jit.script is deprecated, mmcv comes without compiled operators, and mmseg lacks an
    # optional package
    warnings.simplefilter("ignore")
    import mmseg.datasets
    import mmseg.models  # noqa: F401  (fills the registry)
    from mmcv.transforms import Compose
    from mmengine.config import Config, ConfigDict
    from mmengine.hooks import EMAHook, Hook
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import AmpOptimWrapper, OptimWrapper
    from mmengine.registry import DefaultScope
    from mmengine.runner import Runner
    from mmengine.structures import PixelData
    from mmengine.visualization import Visualizer
    from mmseg import registry
    from mmseg.datasets.transforms import GenerateEdge
    from mmseg.models.backbones.swin import SwinBlockSequence
    from mmseg.models.decode_heads.pid_head import PIDHead
    from mmseg.models.decode_heads.segformer_head import SegformerHead
    from mmseg.models.losses import CrossEntropyLoss
    from mmseg.models.segmentors.base import BaseSegmentor
    from mmseg.registry import (
        DATASETS,
        MODELS,
        OPTIM_WRAPPER_CONSTRUCTORS,
        PARAM_SCHEDULERS,
        TRANSFORMS,
    )
    from mmseg.structures import SegDataSample

from models.guard import guarded

__all__ = [
    "DATASETS",
    "MODELS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "PARAM_SCHEDULERS",
    "TRANSFORMS",
    "AmpOptimWrapper",
    "BaseSegmentor",
    "Compose",
    "Config",
    "ConfigDict",
    "CrossEntropyLoss",
    "EMAHook",
    "GenerateEdge",
    "Hook",
    "OptimWrapper",
    "PIDHead",
    "PixelData",
    "QuietRunner",
    "Runner",
    "SegDataSample",
    "SegformerHead",
    "SwinBlockSequence",
    "is_registered",
    "is_training_part",
    "isolated",
    "revert_sync_batchnorm",
]

_LOCK = threading.RLock()  # the state is the process's, so one caller at a time may change it
_MANAGED = (MMLogger, MessageHub, Visualizer, DefaultScope)


def is_registered(name: Any) -> bool:
    """Return whether a config's `type` is a model's part, registered by mmsegmentation or mmengine.

    They import any other type by its name.
    """
    return _is_in(name, registry.MODELS, registry.TASK_UTILS, registry.WEIGHT_INITIALIZERS)


def is_training_part(name: Any) -> bool:
    """Return whether a config's `type` is a part of a training, registered by one of the two."""
    return _is_in(
        name,
        registry.OPTIMIZERS,
        registry.OPTIM_WRAPPERS,
        registry.OPTIM_WRAPPER_CONSTRUCTORS,
        registry.PARAM_SCHEDULERS,
        registry.TRANSFORMS,
    )


def _is_in(name: Any, *registries: Any) -> bool:
    known = [each for node in registries for each in (node, node.parent) if each is not None]
    return isinstance(name, str) and any(name in each.module_dict for each in known)


@contextmanager
def isolated() -> Iterator[None]:
    """Let mmengine change process-wide state, and restore it on exit; its warnings are hidden."""
    with _LOCK, warnings.catch_warnings(), _random_state_kept():
        warnings.simplefilter("ignore")
        instances = {cls: dict(cls._instance_dict) for cls in _MANAGED}
        start_method = multiprocessing.get_start_method(allow_none=True)
        threads = cv2.getNumThreads()
        MMLogger.get_instance("segmint", log_level="ERROR")  # models log to the newest logger
        DefaultScope.get_instance("segmint", scope_name="mmseg")  # where a model's parts are found
        try:
            yield
        finally:
            for cls, before in instances.items():
                _forget(cls, before)
            multiprocessing.set_start_method(start_method, force=True)
            cv2.setNumThreads(threads)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _forget(cls: Any, before: dict[str, Any]) -> None:
    for name, instance in cls._instance_dict.items():
        if name not in before and isinstance(instance, logging.Logger):
            for handler in instance.handlers:
                handler.close()
    cls._instance_dict.clear()
    cls._instance_dict.update(before)


class QuietRunner(Runner):  # type: ignore[misc]  # mmengine has no types
    """mmengine's Runner on a given device that prints nothing and writes nothing."""

    def __init__(self, *, device: str, **options: Any) -> None:
        self._device = device
        hooks = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
        # "fork", mmengine's default, hangs with an open S3 client
        processes = {"mp_cfg": {"mp_start_method": "spawn"}}
        super().__init__(
            default_hooks=dict.fromkeys(hooks), default_scope="mmseg", env_cfg=processes, **options
        )

    def _init_model_weights(self) -> None:
        """Draw random weights; mmengine's initialisers can also load files."""
        with guarded():
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """Load no checkpoint: mmengine unpickles what it cannot read as plain weights."""

    def wrap_model(self, model_wrapper_cfg: Any, model: torch.nn.Module) -> torch.nn.Module:
        """Move the model to the device; `precision` averages gradients over processes.

        torch's wrapper prints a warning for most networks if it may leave weights out that no loss
        reaches, which some networks have, or else fails where gradients are accumulated.
        """
        return model.to(self._device)

    def build_logger(self, *args: Any, **options: Any) -> Any:
        """A logger without a file."""
        return MMLogger.get_instance(self.experiment_name, log_level="ERROR")

    def build_visualizer(self, *args: Any, **options: Any) -> Any:
        """A visualizer without a folder."""
        return Visualizer.get_instance(self.experiment_name)

    def dump_config(self) -> None:
        """Write no configuration: the checkpoint contains it."""

    def _log_env(self, env_cfg: Any) -> None:
        """Start no compilers and no git to describe the machine."""
