"""The embedded model's parts: Stable Diffusion's classes, small enough to ship.

| | |
|---|---|
| images | 128 × 128 |
| latents | 16 × 16, 8 channels; with 4 channels edges blur |
| U-Net | attends to the text at 16², 8² and 4² |
| text encoder | a two-layer CLIP, trained together with the U-Net |
| size | under 32 MB in fp16 |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

__all__ = [
    "build_autoencoder",
    "build_pipeline",
    "build_scheduler",
    "build_text_encoder",
    "build_tokenizer",
    "build_unet",
]

TEXT_WIDTH = 128
MAX_TOKENS = 32  # three objects with every adjective take 21
LATENT_CHANNELS = 8
_DATA = Path(__file__).parent / "data"


def build_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer with byte pairs of the world's prompts (data/tokenizer.json)."""
    stored = json.loads((_DATA / "tokenizer.json").read_text("utf-8"))
    merges: Any = [tuple(pair) for pair in stored["merges"]]  # pairs; the annotation says otherwise
    return CLIPTokenizer(vocab=stored["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return a two-layer CLIP text transformer of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_autoencoder() -> AutoencoderKL:
    """Return an autoencoder of factor 8 with eight latent channels and 2.4 M parameters.

    `scaling_factor` is set after the training, from the latents' standard deviation.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 96, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=128,
    )


def build_unet() -> UNet2DConditionModel:
    """Return a U-Net with cross- and self-attention at 16², 8² and 4², and 11 M parameters."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    )


def build_scheduler() -> DDIMScheduler:
    """Return a DDIM scheduler with v-prediction and zero terminal SNR (Lin et al. 2024).

    The cosine schedule suits latents of 16².
    """
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def build_pipeline(**parts: Any) -> StableDiffusionPipeline:
    """Return the parts as a pipeline that diffusers writes and opens."""
    return StableDiffusionPipeline(
        **parts,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float32)
