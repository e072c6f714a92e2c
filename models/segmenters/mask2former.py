"""Mask2Former as an mmsegmentation model: queries that each predict a class and a mask.

Cheng et al. 2022, "Masked-attention Mask Transformer for Universal Image Segmentation". The network
is transformers', around any backbone of mmsegmentation or transformers' Swin; its tensors have the
names of Hugging Face's checkpoints. Matching and losses are ours (`mask_losses`), because pixels of
255 must not count, which transformers' do.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

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
from models.segmenters.openmmlab import MODELS, BaseSegmentor

__all__ = ["Mask2Former"]

_NO_OBJECT = 0.1  # weight of "no object" in the class loss, appendix A of the paper
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


def _network(
    backbone: dict[str, Any] | None, channels: list[int], width: int, **sizes: Any
) -> Mask2FormerModel:
    """Return transformers' network, around another backbone than Swin if one is given."""
    swin: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    if backbone is not None:  # transformers builds one first; it is replaced, so it is small
        swin |= {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(**swin),
        feature_size=width,
        mask_feature_size=width,
        hidden_dim=width,
        encoder_feedforward_dim=4 * width,
        dim_feedforward=8 * width,
        **sizes,
    )
    model = Mask2FormerModel(config)
    if backbone is not None:
        level = model.pixel_level_module
        level.encoder = _Encoder(backbone, channels)
        level.decoder = Mask2FormerPixelDecoder(config, channels)
        model.init_weights()  # type: ignore[no-untyped-call]
    return model


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
        self.model = _network(
            backbone,
            channels or [],
            width,
            num_attention_heads=heads,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers + 1,  # transformers counts the prediction before them
            num_queries=queries,
        )
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
        targets = [targets_of(sample.gt_sem_seg.data.squeeze(0)) for sample in data_samples]
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

    def _losses(self, layer: _Predictions, targets: list[Targets]) -> dict[str, Tensor]:
        masks_here = torch.tensor(float(sum(len(target.ids) for target in targets)))
        count = average(masks_here.to(layer.masks.device)).clamp_min(1 / rank_and_count()[1])
        wanted = torch.full(layer.classes.shape[:2], self.num_classes, device=layer.classes.device)
        bce = dice = layer.masks.sum() * 0
        for index, target in enumerate(targets):
            masks = layer.masks[index].float()
            queries, matched = match(layer.classes[index].float(), masks, target, self.points)
            wanted[index, queries] = target.ids[matched]
            if len(queries):
                one, other = mask_losses(masks[queries], target, matched, self.points)
                bce, dice = bce + one, dice + other
        weights = torch.ones(self.num_classes + 1, device=layer.classes.device)
        weights[-1] = _NO_OBJECT
        logits = layer.classes.float().transpose(1, 2)
        named = F.cross_entropy(logits, wanted, weights, reduction="sum")
        named = named / average(weights[wanted].sum())
        return {
            "loss_class": CLASS * named,
            "loss_mask": BCE * bce / count,
            "loss_dice": DICE * dice / count,
        }
