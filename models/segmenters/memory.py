"""How much memory a prediction takes: at least, from shapes alone; and at most, by watching one."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from models.segmenters.inference import Inference, padded_size, predict_probabilities
from models.segmenters.networks import Segmenter
from models.segmenters.openmmlab import isolated

__all__ = ["bytes_to_predict", "peak_bytes"]

# Copies of the class scores at the image's size that exist at once: up-sampled, stacked, softmax.
_SCORES = 3


@torch.no_grad()
def bytes_to_predict(
    segmenter: Segmenter, height: int, width: int, inference: Inference = Inference()
) -> int:
    """Return the bytes that predicting one image of H × W pixels takes at least.

    The network runs on torch's meta device, which computes shapes without values. The result is
    what its largest operation reads and writes: for a transformer, attention between all pixels.
    A network that predicts by windows (`test_cfg.mode = "slide"`) is run on one. A network that
    needs values to run counts with its scores alone.
    """
    height, width = (round(side * max(inference.scales)) for side in (height, width))
    scores = _SCORES * 4 * len(segmenter.classes) * height * width
    network: Any = segmenter.network
    side = inference.window or max(height, width)
    size: tuple[int, ...] = padded_size(min(side, height), min(side, width))
    try:
        if network.test_cfg["mode"] == "slide":
            size = tuple(map(min, zip(size, network.test_cfg["crop_size"], strict=True)))
        return max(scores, _largest_operation(network, size))
    except Exception:  # networks of every kind, few of them written for this device
        return scores


def _largest_operation(network: torch.nn.Module, size: tuple[int, ...]) -> int:
    state = {
        name: torch.empty_like(value, device="meta")
        for name, value in chain(network.named_parameters(), network.named_buffers())
    }
    images = torch.empty(1, 3, *size, device="meta")
    largest = _Largest()
    with isolated(), largest:
        functional_call(network.eval(), state, (images,), {"mode": "tensor"})
    return largest.bytes


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own lack types
    """Notes the bytes that the largest operation reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note its size."""
        made = func(*args, **(kwargs or {}))
        both = [*args, *(made if isinstance(made, list | tuple) else (made,))]
        tensors = {id(each): each for each in both if isinstance(each, Tensor)}
        size = sum(each.numel() * each.element_size() for each in tensors.values())
        self.bytes = max(self.bytes, size)
        return made


def peak_bytes(
    segmenter: Segmenter, images: Tensor, inference: Inference = Inference(), device: str = "cpu"
) -> int:
    """Return the most bytes of weights and tensors at once while `images` are predicted.

    `images` are those of `predict_probabilities`, not counted. Memory that an operation needs only
    for itself is not counted either.
    """
    state = chain(segmenter.network.parameters(), segmenter.network.buffers())
    weights: int = sum(each.numel() * each.element_size() for each in state)
    alive = _Alive()
    with alive:
        predict_probabilities(segmenter, images, device, inference)
    return weights + alive.most


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own lack types
    """Notes the most bytes that tensors made by operations take at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._sizes: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and add up the storages that are alive after it."""
        given = {_storage(each).cdata for each in args if isinstance(each, Tensor)}
        made = func(*args, **(kwargs or {}))
        self._sizes = {key: one for key, one in self._sizes.items() if not one[0].expired()}
        for each in made if isinstance(made, list | tuple) else (made,):
            if isinstance(each, Tensor) and (found := _storage(each)).cdata not in given:
                self._sizes[found.cdata] = found, each.untyped_storage().nbytes()
        self.most = max(self.most, sum(size for _, size in self._sizes.values()))
        return made


def _storage(tensor: Tensor) -> Any:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
