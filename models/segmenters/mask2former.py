"""Mask2Former as an mmsegmentation model: queries that each predict a class and a mask.

Cheng et al. 2022, "Masked-attention Mask Transformer for Universal Image Segmentation". The network
is transformers', around any backbone of mmsegmentation or transformers' Swin; its tensors have the
names of Hugging Face's checkpoints. Matching and losses are here, because pixels of 255 must not
count, which transformers' do.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from models.metrics import IGNORE
from models.segmenters.openmmlab import MODELS, BaseSegmentor

__all__ = ["Mask2Former"]

# §3.3 and appendix A of the paper
_CLASS, _BCE, _DICE = 2.0, 5.0, 5.0  # weights of the losses, and of the costs that matching adds up
_NO_OBJECT = 0.1  # weight of "no object" in the class loss
_OVERSAMPLED = 3  # candidates per point of the loss
_UNCERTAIN = 0.75  # share of the points that are the most uncertain candidates
_LOG_FLOOR = 1e-6


class _Encoder(nn.Module):
    """A backbone of mmsegmentation as transformers calls one."""

    def __init__(self, backbone: dict[str, Any], channels: list[int]) -> None:
        super().__init__()
        self.body = MODELS.build(backbone)
        self.channels = channels

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(feature_maps=list(self.body(images)))


class _Predictions(NamedTuple):
    """Logits of one decoder layer: classes (N, Q, C + 1), the last "no object"; masks (N, Q, h, w).

    Masks have a quarter of the image's side.
    """

    classes: Tensor
    masks: Tensor


class _Targets(NamedTuple):
    """Of one image: ids (T,) of the classes in its label, their masks (T, H, W), valid (H, W)."""

    ids: Tensor
    masks: Tensor
    valid: Tensor


@MODELS.register_module(force=True)
class Mask2Former(BaseSegmentor):  # type: ignore[misc]  # mmsegmentation has no types
    """The published network and losses, for semantic labels.

    `backbone` is an mmsegmentation backbone of four levels with strides 4 to 32 and `channels`
    (None: transformers' Swin-T). `width` is that of queries and features, a multiple of 32.
    `points` is the number of points of the mask losses per mask (12,544 in the paper).
    """

    def __init__(
        self,
        num_classes: int,
        backbone: dict[str, Any] | None = None,
        channels: list[int] | None = None,
        width: int = 256,
        heads: int = 8,
        queries: int = 100,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        points: int = 12544,
        data_preprocessor: Any = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        swin: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
        if backbone is not None:  # replaces this one, which is therefore as small as possible
            swin |= {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}
        config = Mask2FormerConfig(
            backbone_config=SwinConfig(**swin),
            feature_size=width,
            mask_feature_size=width,
            hidden_dim=width,
            num_attention_heads=heads,
            encoder_layers=encoder_layers,
            encoder_feedforward_dim=4 * width,
            dim_feedforward=8 * width,
            decoder_layers=decoder_layers + 1,  # transformers counts the prediction before them
            num_queries=queries,
        )
        self.model = Mask2FormerModel(config)
        if backbone is not None:
            level = self.model.pixel_level_module
            level.encoder = _Encoder(backbone, channels or [])
            level.decoder = Mask2FormerPixelDecoder(config, level.encoder.channels)
            self.model.init_weights()  # type: ignore[no-untyped-call]
        self.class_predictor = nn.Linear(width, num_classes + 1)
        self.num_classes = num_classes
        self.out_channels = num_classes
        self.align_corners = False
        self.points = points
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg or {"mode": "whole"}

    def init_weights(self) -> None:
        """Draw the weights of an mmsegmentation backbone; all others were drawn when built."""
        body = getattr(self.model.pixel_level_module.encoder, "body", None)
        if body is not None:
            body.init_weights()

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Return the sums over decoder layers of class loss, mask loss and dice loss."""
        targets = [_targets(sample.gt_sem_seg.data.squeeze(0)) for sample in data_samples]
        losses = [self._losses(layer, targets) for layer in self._layers(inputs)]
        return {name: torch.stack([each[name] for each in losses]).sum() for name in losses[0]}

    def predict(self, inputs: Tensor, data_samples: Any = None) -> list[Any]:
        """Return mmsegmentation's samples with the logits of each image."""
        samples: list[Any] = self.postprocess_result(self._forward(inputs), data_samples)
        return samples

    def encode_decode(self, inputs: Tensor, batch_data_samples: Any) -> Tensor:
        """Return the logits (N, classes, H, W)."""
        return self._forward(inputs)

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return the backbone's feature maps, the finest first."""
        return self.model.pixel_level_module.encoder(inputs).feature_maps

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """Return log-probabilities of classes (N, classes, H, W).

        Semantic inference of Cheng et al. 2021, "MaskFormer", §3.4, scaled to sum to 1.
        """
        last = self._layers(inputs)[-1]
        masks = F.interpolate(
            last.masks.float(), inputs.shape[2:], mode="bilinear", align_corners=False
        )
        chances = last.classes.float().softmax(-1)[..., :-1]
        scores = torch.einsum("nqc,nqhw->nchw", chances, masks.sigmoid())
        return (scores / scores.sum(1, keepdim=True).clamp_min(_LOG_FLOOR) + _LOG_FLOOR).log()

    def _layers(self, inputs: Tensor) -> list[_Predictions]:
        output = self.model(inputs, output_hidden_states=True)
        states = output.transformer_decoder_intermediate_states
        return [
            _Predictions(self.class_predictor(state.transpose(0, 1)), masks)
            for state, masks in zip(states, output.masks_queries_logits, strict=True)
        ]

    def _losses(self, layer: _Predictions, targets: list[_Targets]) -> dict[str, Tensor]:
        count = max(1, sum(len(target.ids) for target in targets))
        wanted = torch.full(layer.classes.shape[:2], self.num_classes, device=layer.classes.device)
        bce = dice = layer.masks.sum() * 0
        for index, target in enumerate(targets):
            masks = layer.masks[index].float()
            queries, matched = _match(layer.classes[index].float(), masks, target, self.points)
            wanted[index, queries] = target.ids[matched]
            if len(queries):
                one, other = _mask_losses(masks[queries], target, matched, self.points)
                bce, dice = bce + one, dice + other
        weights = torch.ones(self.num_classes + 1, device=layer.classes.device)
        weights[-1] = _NO_OBJECT
        named = F.cross_entropy(layer.classes.float().transpose(1, 2), wanted, weights)
        return {
            "loss_class": _CLASS * named,
            "loss_mask": _BCE * bce / count,
            "loss_dice": _DICE * dice / count,
        }


def _targets(label: Tensor) -> _Targets:
    """Return the classes of a label (H, W), the background among them, without 255."""
    valid = label != IGNORE
    ids = torch.unique(label[valid])
    return _Targets(ids, (label == ids[:, None, None]).float(), valid.float())


@torch.no_grad()
def _match(classes: Tensor, masks: Tensor, target: _Targets, points: int) -> tuple[Tensor, Tensor]:
    """Return matched queries and targets, by the least sum of costs at uniformly drawn points."""
    where = torch.rand(1, points, 2, device=masks.device)
    valid = _sample(target.valid[None], where, "nearest")
    guess, truth = _sample(masks, where), _sample(target.masks, where)
    share = valid / valid.sum().clamp_min(1)
    bce = (F.softplus(-guess) * share) @ truth.T + (F.softplus(guess) * share) @ (1 - truth).T
    inside = guess.sigmoid() * valid
    known = truth * valid
    both = 2 * inside @ truth.T
    dice = 1 - (both + 1) / (inside.sum(1)[:, None] + known.sum(1) + 1)
    cost = _BCE * bce + _DICE * dice - _CLASS * classes.softmax(-1)[:, target.ids]
    # an overflowing half-precision mask must not stop the training by itself
    rows, columns = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6).cpu().numpy())
    device = masks.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


def _mask_losses(
    masks: Tensor, target: _Targets, matched: Tensor, points: int
) -> tuple[Tensor, Tensor]:
    """Return the sums over masks (M, h, w) of cross-entropy and dice loss, at chosen points."""
    truth = target.masks[matched]
    valid = target.valid.expand_as(truth)
    where = _uncertain_points(masks.detach(), valid, points)
    guess, wanted = _sample(masks, where), _sample(truth, where)
    weight = _sample(valid, where, "nearest")
    bce = F.binary_cross_entropy_with_logits(guess, wanted, reduction="none")
    mean = (bce * weight).sum(1) / weight.sum(1).clamp_min(1)
    inside, known = guess.sigmoid() * weight, wanted * weight
    dice = 1 - (2 * (inside * known).sum(1) + 1) / (inside.sum(1) + known.sum(1) + 1)
    return mean.sum(), dice.sum()


def _uncertain_points(masks: Tensor, valid: Tensor, points: int) -> Tensor:
    """Return points (M, K, 2): most where a mask is uncertain, the others anywhere.

    Kirillov et al. 2020, "PointRend", §3.1. Points on ignored pixels come last.
    """
    candidates = torch.rand(len(masks), _OVERSAMPLED * points, 2, device=masks.device)
    doubt = -_sample(masks, candidates).abs()
    doubt = doubt.masked_fill(_sample(valid, candidates, "nearest") == 0, float("-inf"))
    count = int(_UNCERTAIN * points)
    best = doubt.topk(count, dim=1).indices
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    anywhere = torch.rand(len(masks), points - count, 2, device=masks.device)
    return torch.cat([chosen, anywhere], 1)


def _sample(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Return the values (M, K) of maps (M, h, w) at points (M or 1, K, 2), x and y in [0, 1]."""
    grid = 2 * points.expand(len(maps), -1, -1)[:, None] - 1
    values = F.grid_sample(maps[:, None], grid, mode=mode, align_corners=False)
    return values[:, 0, 0]
