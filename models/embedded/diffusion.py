"""Training of the embedded diffusion model: U-Net and text encoder on the autoencoder's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from models.embedded.architecture import (
    build_pipeline,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from models.embedded.corpus import CAPTIONS, Corpus
from models.embedded.loop import Progress, Schedule, fit
from models.embedded.training import Reporter, ignore, save_sheet

__all__ = ["image_weights", "train_diffusion"]

DROP_PROMPT = 0.1  # share of empty prompts, for classifier-free guidance (Ho & Salimans 2022)
# weight of images of two classes: leaving one of them out is the most common fault
TWO_CLASSES = 2.0
HARD = (9, 10)  # fish and birds, the classes drawn worst: birds with two heads, fish with two tails
HARD_CLASSES = 2.0  # weight of images with one of them
# of timesteps to the noisy side, where the layout is decided (Esser et al. 2024, eq. 23)
TIME_SHIFT = 2.0
_SHEET_EVERY = 1000  # steps
# Prompts of the sample sheets: one per class, then several classes, several objects, and none.
_SHEET = [
    "a red car on sand",
    "a blue bus on grass",
    "a white house on snow",
    "a green tree on bricks",
    "a boat on water",
    "a yellow mug on wood",
    "a red mushroom on grass",
    "a purple ball on snow",
    "a fish on the sea",
    "a bird on sand",
    "a green car and a red house on snow",
    "a white boat and a blue fish on the sea",
    "two trees on grass",
    "a cup and a ball on wood",
    "snow",
]


def train_diffusion(
    vae: AutoencoderKL,
    corpus: Corpus,
    latents: NDArray[np.float16],
    folder: Path,
    schedule: Schedule,
    *,
    start: nn.ModuleDict | None = None,
    batch: int = 32,
    device: str = "cpu",
    compiled: bool = False,
    report: Reporter = ignore,
) -> nn.ModuleDict:
    """Train U-Net and text encoder together by v-prediction (Salimans & Ho 2022) on scaled latents.

    `start` holds `unet` and `text_encoder` with the initial weights, such as the shipped ones; None
    starts from random weights. Returns the averaged weights under the same names.
    """
    tokenizer = build_tokenizer()
    loss = _DiffusionLoss(corpus, latents, vae.config.scaling_factor, tokenizer, batch, device)

    def look(progress: Progress, average: nn.ModuleDict) -> None:
        report(progress)
        if progress.step % _SHEET_EVERY == 0:
            path = folder / f"sheet-{progress.step:06d}.png"
            _sample_sheet(
                build_pipeline(vae=vae, tokenizer=tokenizer, **dict(average.items())), path
            )

    torch.manual_seed(0)
    parts = start or nn.ModuleDict(
        {"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)}
    )
    # plain attention: a step takes a third less than with the fused kernels' slow backward pass
    if device == "cpu":
        cast(UNet2DConditionModel, parts["unet"]).set_attn_processor(AttnProcessor())
    if compiled:
        parts["unet"].compile()
    return fit(parts.to(device), loss, schedule, folder, report=look)


class _DiffusionLoss:
    """The v-prediction loss of a batch that depends on the step alone."""

    def __init__(
        self,
        corpus: Corpus,
        latents: NDArray[np.float16],
        scaling_factor: float,
        tokenizer: CLIPTokenizer,
        batch: int,
        device: str,
    ) -> None:
        self._corpus = corpus
        self._latents = latents
        self._scaling_factor = scaling_factor
        self._empty = torch.tensor(tokenizer("", padding="max_length")["input_ids"])
        self._cumulated = np.cumsum(image_weights(corpus.labels))
        self._scheduler = build_scheduler()
        self._batch = batch
        self._device = device

    def __call__(self, modules: nn.ModuleDict, step: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(step)
        clean, tokens = self._samples(np.random.default_rng([step, 13]))
        noise = torch.randn(clean.shape, generator=generator)
        times = self._times(generator)
        noisy = self._scheduler.add_noise(clean, noise, times)
        target = self._scheduler.get_velocity(clean, noise, times)
        text = modules["text_encoder"](tokens.to(self._device))[0]
        output = modules["unet"](noisy.to(self._device), times.to(self._device), text).sample
        return F.mse_loss(output.float(), target.to(self._device))

    def _samples(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw scaled latents (batch, 8, 16, 16) and token ids (batch, MAX_TOKENS)."""
        shares = rng.random(self._batch) * self._cumulated[-1]
        rows = np.searchsorted(self._cumulated, shares, side="right")
        captions = rng.integers(0, CAPTIONS, self._batch)
        tokens = torch.from_numpy(self._corpus.tokens[rows, captions].astype(np.int64))
        tokens[torch.from_numpy(rng.random(self._batch) < DROP_PROMPT)] = self._empty
        latents = torch.from_numpy(self._latents[rows].astype(np.float32))
        return latents * self._scaling_factor, tokens

    def _times(self, generator: torch.Generator) -> Tensor:
        """Draw one timestep from each of `batch` equal intervals, shifted to the noisy side.

        The loss varies less than with independent timesteps.
        """
        batch = self._batch
        shares = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        shifted = 1000 * TIME_SHIFT * shares / (1 + (TIME_SHIFT - 1) * shares)
        return shifted.long().clamp(max=999)


def image_weights(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return each image's weight in the draw of training batches (n,), from its label (n, H, W)."""
    shown = np.array([np.bincount(label.ravel(), minlength=256)[1:255] > 0 for label in labels])
    hard = shown[:, np.array(HARD) - 1].any(1)
    return np.where(shown.sum(1) == 2, TWO_CLASSES, 1.0) * np.where(hard, HARD_CLASSES, 1.0)


def _sample_sheet(pipeline: Any, path: Path) -> None:
    """Write an image of each prompt of the sheet."""
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        _SHEET,
        num_inference_steps=25,
        guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(len(_SHEET))],
        output_type="np",
    ).images
    pixels = (images * 255).round().astype(np.uint8)
    save_sheet(path, pixels.reshape(-1, 5, *pixels.shape[1:]))
