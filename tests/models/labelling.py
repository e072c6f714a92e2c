"""Labellers of random weights: transformers' own classes at tiny sizes, as directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    CLIPSegConfig,
    GroundingDinoConfig,
    GroundingDinoImageProcessorPil,
    Sam2Config,
    Sam3Config,
    ViTImageProcessorPil,
)
from transformers.models.clipseg.modeling_clipseg import CLIPSegForImageSegmentation
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoForObjectDetection,
)
from transformers.models.sam2.modeling_sam2 import Sam2Model
from transformers.models.sam3.modeling_sam3 import Sam3Model

from tests.models.conftest import TOKENS, build_tokenizer

__all__ = ["PHRASES", "WORDS", "write_clipseg", "write_detector", "write_sam2", "write_sam3"]

PHRASES = ["a red car", "tree"]
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "red", "car", "tree"]


def _text(words: int) -> dict[str, Any]:
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return {"vocab_size": words, "max_position_embeddings": TOKENS, **tokens, **_SMALL}


def write_clipseg(folder: Path) -> Any:
    """Write a CLIPSeg for images of 64², whose scores lie on both sides of 0.5."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = CLIPSegConfig(
        text_config=_text(len(tokenizer)),
        vision_config={"image_size": 64, "patch_size": 16, **_SMALL},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    model = CLIPSegForImageSegmentation(config).eval()
    with torch.no_grad():
        model.decoder.transposed_convolution.weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model


def write_sam3(folder: Path, *, video: bool = False) -> Any:
    """Write a SAM 3 for images of 56², alone or as part of the one for videos, as published."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    part = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_layers": 1}
    vision = {"model_type": "sam3_vit_model", "image_size": 56, "patch_size": 14, "window_size": 2}
    config = Sam3Config(
        vision_config={
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "backbone_config": {
                **vision,
                **_SMALL,
                "global_attn_indexes": [1],
                "pretrain_image_size": 56,
            },
        },
        text_config={
            "model_type": "clip_text_model",
            "projection_dim": 16,
            **_text(len(tokenizer)),
        },
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config={"num_queries": 6, **part},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    model = Sam3Model(config).eval()
    with torch.no_grad():
        model.mask_decoder.instance_projection.weight.mul_(10_000)  # masks that are not even
        model.dot_product_scoring.query_proj.weight.mul_(300)  # instances that fit and do not fit
        model.detr_decoder.presence_head.layer3.bias.fill_(6)  # every phrase is present
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if video:
        _as_part_of_a_video_model(folder)
    return model


def _as_part_of_a_video_model(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "sam3_video", "architectures": ["Sam3VideoModel"]}
    (folder / "config.json").write_text(json.dumps({**whole, "detector_config": config}))
    tensors = load_file(folder / "model.safetensors")
    named = {f"detector_model.{name}": value for name, value in tensors.items()}
    save_file(
        named | {"tracker_neck.x": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"}
    )


def write_sam2(folder: Path) -> Any:
    """Write a SAM 2 for images of 64²."""
    torch.manual_seed(0)
    config = Sam2Config(
        vision_config={
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 1, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [8, 4, 4, 4],
                "global_attention_blocks": [],
            },
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
    )
    model = Sam2Model(config).eval()
    with torch.no_grad():
        model.mask_decoder.upscale_conv2.weight.mul_(100)  # masks that are not even
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.mul_(1000)
    model.save_pretrained(folder)
    return model


def write_detector(folder: Path) -> Any:
    """Write a Grounding DINO for images whose sides are 96 to 160 long."""
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(WORDS),
            "max_position_embeddings": TOKENS,
            **_SMALL,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=8,
        max_text_len=TOKENS,
    )
    model = GroundingDinoForObjectDetection(config).eval()
    model.save_pretrained(folder)
    words = {word: number for number, word in enumerate(WORDS)}
    BertTokenizer(vocab=words).save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 160}
    GroundingDinoImageProcessorPil(size=size).save_pretrained(folder)
    return model
