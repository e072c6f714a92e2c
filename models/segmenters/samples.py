"""Labelled sets as the augmented batches that mmsegmentation trains on.

A labelled set is any torch `Dataset` of items {"image": uint8 (3, H, W) RGB, "label": uint8 (H, W),
"id": str} with label ids 0, 1, … and 255 = ignore. The random draws for position n of a training
depend on (seed, n) alone. So neither the number of loading processes nor an interruption changes
them.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from models.metrics import IGNORE
from models.scenes import choose_grid, splice
from models.segmenters.copies import Objects, paste_object
from models.segmenters.distortions import blur, occlude, tilt
from models.segmenters.draws import Order, shares_of
from models.segmenters.openmmlab import PixelData, SegDataSample
from models.segmenters.schedules import ConfigViews

__all__ = ["Augmentation", "LabelledItem", "TrainingView", "Views", "augment", "collate"]

# Photometric jitter: factors of contrast and saturation, and brightness as a share of the range.
# Milder than mmsegmentation's PhotoMetricDistortion (0.5-1.5, 32/255), because small classes are
# told apart by colour too.
_CONTRAST = (0.8, 1.25)
_SATURATION = (0.7, 1.3)
_BRIGHTNESS = 0.08
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601


class LabelledItem(TypedDict):
    """One item of a labelled set."""

    image: Tensor
    label: Tensor
    id: str


@dataclass(frozen=True)
class Augmentation:
    """Share of the training's positions, in [0, 1], to which each augmentation is applied.

    `paste` adds another sample's object, `splice` tiles several samples, `blur` is Gaussian,
    `occlusion` hides patches, `perspective` moves the corners.
    """

    paste: float = 0.0
    splice: float = 0.0
    blur: float = 0.0
    occlusion: float = 0.0
    perspective: float = 0.0


@dataclass(frozen=True)
class Views:
    """How a training sees its samples.

    `length` is the number of positions, `crop` the size (H, W) in pixels, `scale` the range of the
    random scale factor. `own` are a config's augmentations, which then replace the random scale,
    mirroring and colours.
    """

    length: int
    num_classes: int
    crop: tuple[int, int]
    scale: tuple[float, float]
    seed: int
    augmentation: Augmentation = Augmentation()
    own: ConfigViews | None = None


class TrainingView(Dataset[dict[str, Any]]):
    """The positions of a training on a labelled set, from `start` on, shuffled anew each epoch.

    A set with `shares` is drawn from by these (`draws`).
    """

    def __init__(self, samples: Dataset[Any], views: Views, start: int = 0) -> None:
        self._samples = samples
        self._objects = Objects(samples)
        self._views = views
        self._start = start
        self._order = Order(views.seed, len(cast(Sized, samples)), shares_of(samples))

    def __len__(self) -> int:
        return self._views.length - self._start

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return a batch; torch's loader calls this instead of `__getitem__`.

        Its samples are read together if the labelled set has `__getitems__`.
        """
        positions = [position + self._start for position in positions]
        samples = self._read([self._order[position] for position in positions])
        return [
            self._view(position, *sample)
            for position, sample in zip(positions, samples, strict=True)
        ]

    def _view(self, position: int, image: Tensor, label: Tensor) -> dict[str, Any]:
        views = self._views
        rngs = {key: np.random.default_rng((views.seed, key, position)) for key in (1, 2, 3)}
        image, label = self._pasted(image, label, rngs[3])
        if rngs[2].random() < views.augmentation.splice:
            image, label = self._spliced(image, label, rngs[2])
        image, label = self._distorted(image, label, rngs[2])
        if views.own is None:
            image, label = augment(image, label, rngs[1], crop=views.crop, scale=views.scale)
        else:
            seed = int(rngs[1].integers(2**32))
            image, label = views.own(image, label, views.crop, seed)
        sample = SegDataSample(metainfo={"ori_shape": views.crop, "img_shape": views.crop})
        sample.gt_sem_seg = PixelData(data=label.long()[None])
        return {"inputs": image, "data_samples": sample}

    def _read(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        several = getattr(self._samples, "__getitems__", None)
        items = several(indices) if several else [self._samples[index] for index in indices]
        for item in items:
            _check_item(item, self._views.num_classes)
        return [(item["image"], item["label"]) for item in items]

    def _pasted(
        self, image: Tensor, label: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        if rng.random() < self._views.augmentation.paste:
            return paste_object(image, label, self._objects, range(1, self._views.num_classes), rng)
        return image, label

    def _distorted(
        self, image: Tensor, label: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the sample with each distortion applied with its own probability."""
        chosen = self._views.augmentation
        shares = {blur: chosen.blur, occlude: chosen.occlusion, tilt: chosen.perspective}
        for distort, share in shares.items():
            if rng.random() < share:
                image, label = distort(image, label, rng)
        return image, label

    def _spliced(
        self, image: Tensor, label: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return a mosaic of the sample and random others, in a random grid."""
        grid = choose_grid(rng, self._views.crop)
        others = rng.integers(len(cast(Sized, self._samples)), size=grid[0] * grid[1] - 1)
        samples = [(image, label), *self._read(others.tolist())]
        images = [np.ascontiguousarray(image.numpy().transpose(1, 2, 0)) for image, _ in samples]
        labels = [label.numpy() for _, label in samples]
        mosaic, ids, _ = splice(images, labels, grid, self._views.crop)
        return torch.from_numpy(mosaic.transpose(2, 0, 1).copy()), torch.from_numpy(ids)


def _check_item(item: LabelledItem, num_classes: int) -> None:
    image, label = item["image"], item["label"]
    if image.ndim != 3 or image.shape[1:] != label.shape:
        raise ValueError(
            f"sample {item['id']}: image {tuple(image.shape)} and label {tuple(label.shape)} "
            "do not fit; give (3, H, W) and (H, W) of one size"
        )
    ids = label[label != IGNORE]
    if ids.numel() and int(ids.max()) >= num_classes:
        raise ValueError(
            f"sample {item['id']}: label id {int(ids.max())}, but there are {num_classes} classes "
            f"(0..{num_classes - 1}); correct the label, or train with the vocabulary that it uses"
        )


def augment(
    image: Tensor,
    label: Tensor,
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Return a random view of a sample: mirrored, scaled, cut to `crop`, colours jittered.

    Takes image (3, H, W) and label (H, W), returns (3, *crop) and (*crop), all uint8. Outside the
    sample the view is black and its label 255. The factor is drawn log-uniformly from `scale`, so
    enlarging and shrinking are equally likely. Image and label are both resized by pixel centres.
    """
    if rng.random() < 0.5:
        image, label = image.flip(-1), label.flip(-1)
    factor = float(np.exp(rng.uniform(*np.log(scale))))
    size = [max(1, round(side * factor)) for side in label.shape]
    if size != list(label.shape):
        image = F.interpolate(image[None], size, mode="bilinear", antialias=factor < 1)[0]
        # "nearest" maps pixel corners: the label would be half a pixel right of and below the image
        label = F.interpolate(label[None, None], size, mode="nearest-exact")[0, 0]
    top, left = (
        int(rng.integers(min(0, a - b), max(0, a - b) + 1)) for a, b in zip(size, crop, strict=True)
    )
    return _jitter(_cut(image, top, left, crop, 0), rng), _cut(label, top, left, crop, IGNORE)


def _cut(values: Tensor, top: int, left: int, crop: tuple[int, int], fill: int) -> Tensor:
    """Return the window (…, *crop) at (top, left), filled with `fill` outside `values`."""
    bottom, right = (
        start + side - have
        for start, side, have in zip((top, left), crop, values.shape[-2:], strict=True)
    )
    return F.pad(values, (-left, right, -top, bottom), value=fill)


def _jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    contrast, saturation = (
        float(np.exp(rng.uniform(*np.log(span)))) for span in (_CONTRAST, _SATURATION)
    )
    brightness = float(rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    grey = _LUMA.expand(3, 3)
    mixing = contrast * (saturation * torch.eye(3) + (1 - saturation) * grey)
    offset = 127.5 * (1 - contrast) + 255 * brightness
    coloured = mixing @ image.flatten(1).float() + offset
    return coloured.clamp_(0, 255).to(torch.uint8).view_as(image)


def collate(items: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return a batch in the form that mmsegmentation's data preprocessor takes."""
    return {key: [item[key] for item in items] for key in ("inputs", "data_samples")}
