"""Fixtures: a Stable Diffusion pipeline of random weights, fast to sample, and the embedded one."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.generators import load_pipeline

TOKENS = 32


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single letters: every word of n letters is n tokens."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocab = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocab)}, merges=[], model_max_length=TOKENS
    )


def build_pipeline() -> Any:
    """Images of 64², latents of 8², cross-attention at 8², 4² and 2² that is far from even."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32, 32),
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    )
    for name, weight in unet.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            # random layers attend almost evenly, and an even map would hide mistakes
            weight.data *= 4
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    )
    scheduler = DDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # without effect on trailing steps; diffusers warns of any other
    )
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def tiny_pipeline() -> Any:
    return build_pipeline()


@pytest.fixture(scope="session")
def tiny_directory(tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipelines") / "tiny"
    tiny_pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="session", params=["tiny", pytest.param("embedded", marks=pytest.mark.slow)])
def pipeline(request: pytest.FixtureRequest, tiny_pipeline: Any) -> Any:
    """Each of the two: claims have to hold for random and for trained weights."""
    return tiny_pipeline if request.param == "tiny" else load_pipeline("embedded", device="cpu")
