"""Mask2Former as an mmsegmentation model: queries that each predict a class and a mask.

Cheng et al. 2022, "Masked-attention Mask Transformer for Universal Image Segmentation". The network
is transformers', around any backbone of mmsegmentation or transformers' Swin; its tensors have the
names of Hugging Face's checkpoints.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from models.segmenters.openmmlab import MODELS
from models.segmenters.queries import Predictions, QuerySegmentor

__all__ = ["Mask2Former"]


class _Encoder(nn.Module):
    """A backbone of mmsegmentation as transformers calls one."""

    def __init__(self, backbone: dict[str, Any], channels: list[int]) -> None:
        super().__init__()
        self.body = MODELS.build(backbone)
        self.channels = channels

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(feature_maps=list(self.body(images)))


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
class Mask2Former(QuerySegmentor):
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
        super().__init__(num_classes, points, data_preprocessor, train_cfg, test_cfg, init_cfg)
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
