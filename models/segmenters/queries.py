"""Segmentors of queries that each predict a class and a mask: Mask2Former and EoMT share all this.

Inference is that of Cheng et al. 2021, "MaskFormer", §3.4. Matching and losses are ours
(`mask_losses`), because pixels of 255 must not count, which transformers' do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.metrics import IGNORE
from models.parallel import average, rank_and_count
from models.segmenters.mask_losses import (
    BCE,
    CLASS,
    DICE,
    Targets,
    mask_losses,
    match,
    targets_of,
)
from models.segmenters.segmentor import OwnSegmentor

__all__ = ["Predictions", "QuerySegmentor"]

# Weight of "no object" in the class loss, appendix A of Mask2Former's paper: most of its queries
# find none. A query of one class says whether that is there, and both answers count alike (mIoU of
# the preset after 500 steps: 0.913, with this weight 0.894).
_NO_OBJECT = 0.1
_LOG_FLOOR = 1e-6


class Predictions(NamedTuple):
    """Logits of one layer: classes (N, Q, C + 1), the last "no object"; masks (N, Q, h, w).

    Masks cover the image at any scale.
    """

    classes: Tensor
    masks: Tensor


class QuerySegmentor(OwnSegmentor):
    """Losses and semantic inference; a network adds `layers_of`.

    `queries` is their number; with None there is one per class, which is matched with its own
    class, else the least cost matches queries with the classes of a label. `points` is the number
    of points of the mask losses per mask, and `common` are the arguments of `OwnSegmentor`. Inputs
    are padded to a multiple of `divisor` at the bottom and right.
    """

    divisor = 1

    def __init__(
        self,
        num_classes: int,
        queries: int | None,
        points: int,
        **common: Any,
    ) -> None:
        super().__init__(num_classes, **common)
        self.points = points
        self.of_classes = queries is None
        self.queries = num_classes if queries is None else queries

    def layers_of(self, inputs: Tensor) -> list[Predictions]:
        """Return the predictions of each layer that is trained, the last one's last."""
        raise NotImplementedError

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Return the sums over layers of class loss, mask loss and dice loss."""
        padded = self._padded(inputs)
        frame = 0, padded.shape[3] - inputs.shape[3], 0, padded.shape[2] - inputs.shape[2]
        labels = [sample.gt_sem_seg.data.squeeze(0) for sample in data_samples]
        targets = [targets_of(F.pad(label, frame, value=IGNORE)) for label in labels]
        losses = [self._losses(layer, targets) for layer in self.layers_of(padded)]
        return {name: torch.stack([each[name] for each in losses]).sum() for name in losses[0]}

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """Return log-probabilities (N, classes, H, W): scores of classes, scaled to sum to 1."""
        padded = self._padded(inputs)
        last = self.layers_of(padded)[-1]
        masks = F.interpolate(
            last.masks.float(), padded.shape[2:], mode="bilinear", align_corners=False
        )[..., : inputs.shape[2], : inputs.shape[3]]
        chances = last.classes.float().softmax(-1)[..., :-1]
        scores = torch.einsum("nqc,nqhw->nchw", chances, masks.sigmoid())
        return (scores / scores.sum(1, keepdim=True).clamp_min(_LOG_FLOOR) + _LOG_FLOOR).log()

    def _padded(self, inputs: Tensor) -> Tensor:
        bottom, right = (-side % self.divisor for side in inputs.shape[2:])
        return F.pad(inputs, (0, right, 0, bottom)) if bottom or right else inputs

    def _matched(self, classes: Tensor, masks: Tensor, target: Targets) -> tuple[Tensor, Tensor]:
        """Return queries, and the numbers of the masks in `target` that they are matched with."""
        if self.of_classes:
            return target.ids, torch.arange(len(target.ids), device=masks.device)
        return match(classes, masks, target, self.points)

    def _losses(self, layer: Predictions, targets: list[Targets]) -> dict[str, Tensor]:
        masks_here = torch.tensor(float(sum(len(target.ids) for target in targets)))
        count = average(masks_here.to(layer.masks.device)).clamp_min(1 / rank_and_count()[1])
        wanted = torch.full(layer.classes.shape[:2], self.num_classes, device=layer.classes.device)
        bce = dice = layer.masks.sum() * 0
        for index, target in enumerate(targets):
            masks = layer.masks[index].float()
            queries, matched = self._matched(layer.classes[index].float(), masks, target)
            wanted[index, queries] = target.ids[matched]
            if len(queries):
                one, other = mask_losses(masks[queries], target, matched, self.points)
                bce, dice = bce + one, dice + other
        weights = torch.ones(self.num_classes + 1, device=layer.classes.device)
        if not self.of_classes:
            weights[-1] = _NO_OBJECT
        logits = layer.classes.float().transpose(1, 2)
        named = F.cross_entropy(logits, wanted, weights, reduction="sum")
        named = named / average(weights[wanted].sum())
        return {
            "loss_class": CLASS * named,
            "loss_mask": BCE * bce / count,
            "loss_dice": DICE * dice / count,
        }
