"""Mask2Former as an mmsegmentation model: queries that each predict a class and a mask.

Cheng et al. 2022, "Masked-attention Mask Transformer for Universal Image Segmentation". The network
is transformers', around a backbone of mmsegmentation or of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from models.segmenters.backbones import backbone_config
from models.segmenters.openmmlab import MODELS
from models.segmenters.queries import Predictions, QuerySegmentor

__all__ = ["Mask2Former"]

_LARGEST_DIVISOR = 128  # 32 in all published trainings; every image grows to a multiple of it
# transformers builds a backbone first; before one of mmsegmentation takes its place, it is small
_REPLACED: dict[str, Any] = {"arch": "swin", "width": 8, "depths": [1] * 4, "heads": [1] * 4}


class _Encoder(nn.Module):
    """A backbone of mmsegmentation as transformers calls one."""

    def __init__(self, backbone: dict[str, Any], channels: list[int]) -> None:
        super().__init__()
        self.body = MODELS.build(backbone)
        self.channels = channels

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(feature_maps=list(self.body(images)))


def _network(backbone: dict[str, Any], channels: list[int], **sizes: Any) -> Mask2FormerModel:
    """Return transformers' network around a backbone of transformers, or of mmsegmentation."""
    foreign = "type" in backbone
    first = backbone_config(**(_REPLACED if foreign else backbone))
    config = Mask2FormerConfig(backbone_config=first, **sizes)
    model = Mask2FormerModel(config)
    if foreign:
        level = model.pixel_level_module
        level.encoder = _Encoder(backbone, channels)
        level.decoder = Mask2FormerPixelDecoder(config, channels)
        model.init_weights()  # type: ignore[no-untyped-call]
    return model


@MODELS.register_module(force=True)
class Mask2Former(QuerySegmentor):
    """The published network and losses, for semantic labels.

    With `queries` None there is one per class, which is matched with its own class, as in
    "MaskFormer-fixed" of Cheng et al. 2021, "Per-Pixel Classification is Not All You Need". The
    preset has these: from random weights, least-cost matching finds masks soon and classes late.

    | queries of the preset, 500 steps on drawn scenes | mIoU |
    |---|---|
    | one per class, each for its own | 0.913 |
    | 24, by least cost (Mask2Former) | 0.313 |
    | 24, with a per-pixel loss on the features beside it, weight 1 and 5 | 0.396, 0.401 |
    | SegFormer, as many steps | 0.884 |

    `backbone` is an mmsegmentation backbone of four levels with strides 4 to 32 and `channels`, or
    one of transformers by `arch` and sizes (`backbone_config`; None: Swin-T). `width` is that of
    queries. `features`, a multiple of 32, and `mask_features` are those of the pixel decoder, and
    `encoder_feedforward` and `decoder_feedforward` the inner widths of its layers and of the
    queries'; by default `width`, and 4 and 8 times `width`. `points` is the number of points of the
    mask losses per mask (12,544 in the paper). Inputs are padded to a multiple of `divisor`.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: dict[str, Any] | None = None,
        channels: list[int] | None = None,
        width: int = 256,
        heads: int = 8,
        queries: int | None = 100,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        features: int | None = None,
        mask_features: int | None = None,
        encoder_feedforward: int | None = None,
        decoder_feedforward: int | None = None,
        points: int = 12544,
        divisor: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(num_classes, queries, points, **common)
        if not 1 <= divisor <= _LARGEST_DIVISOR:
            raise ValueError(f"divisor is {divisor}; give 1 to {_LARGEST_DIVISOR}")
        backbone = backbone or {"arch": "swin"}
        self.backbone_path = "model.pixel_level_module.encoder" + ".body" * ("type" in backbone)
        self.model = _network(
            backbone,
            channels or [],
            hidden_dim=width,
            num_attention_heads=heads,
            feature_size=features or width,
            mask_feature_size=mask_features or width,
            encoder_feedforward_dim=encoder_feedforward or 4 * width,
            dim_feedforward=decoder_feedforward or 8 * width,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers + 1,  # transformers counts the prediction before them
            num_queries=self.queries,
        )
        self.class_predictor = nn.Linear(width, num_classes + 1)
        self.divisor = divisor

    def with_own_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file, those that Hugging Face names otherwise by our names."""
        own = list(self.model.state_dict())
        numbered = {name: torch.tensor(number) for number, name in enumerate(own)}
        published = revert_weight_conversion(self.model, numbered)
        ours = {f"model.{name}": f"model.{own[int(at)]}" for name, at in published.items()}
        return {ours.get(name, name): value for name, value in tensors.items()}

    def init_weights(self) -> None:
        """Draw the weights of an mmsegmentation backbone; all others were drawn when built."""
        body = getattr(self.model.pixel_level_module.encoder, "body", None)
        if body is not None:
            body.init_weights()

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return the backbone's feature maps, the finest first."""
        return self.model.pixel_level_module.encoder(inputs).feature_maps

    def layers_of(self, inputs: Tensor) -> list[Predictions]:
        """Return the predictions before the decoder's layers and after each; masks at a quarter."""
        output = self.model(inputs, output_hidden_states=True)
        states = output.transformer_decoder_intermediate_states
        return [
            Predictions(self.class_predictor(state.transpose(0, 1)), masks)
            for state, masks in zip(states, output.masks_queries_logits, strict=True)
        ]
