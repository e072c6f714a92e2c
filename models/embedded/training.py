"""How the embedded models are trained: autoencoder, then U-Net with text encoder on its latents,
and the oracle.

Each function resumes from its folder, logs `log.jsonl` and draws sample sheets beside it. The
figures of the run that made the shipped weights are in MODEL_CARD.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from models.embedded.architecture import (
    build_autoencoder,
    build_pipeline,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from models.embedded.corpus import CAPTIONS, Corpus
from models.embedded.loop import Progress, Schedule, fit

__all__ = ["encode_latents", "train_autoencoder", "train_diffusion"]

DROP_PROMPT = 0.1  # share of empty prompts, for classifier-free guidance (Ho & Salimans 2022)
# weight of pictures of two classes against others: leaving one out is the most common fault
TWO_CLASSES = 2.0
HARD = (9, 10)  # fish and birds, the classes drawn worst: birds with two heads, fish with two tails
HARD_CLASSES = 2.0  # weight of pictures with one of them
TIME_SHIFT = (
    2.0  # of timesteps to the noisy side, where the layout is decided (Esser et al. 2024, eq. 23)
)
_CROP = 64
# One prompt a class, and two of two classes, for the sheets that training leaves.
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
_KL = 1e-6  # as Stable Diffusion's autoencoder

Reporter = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Report to nobody."""


def to_unit(images: NDArray[np.uint8] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [-1, 1]."""
    return torch.as_tensor(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in [-1, 1] → (B, H, W, 3) uint8."""
    return np.asarray(
        ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()
    )


def train_autoencoder(
    corpus: Corpus,
    folder: Path,
    schedule: Schedule,
    *,
    batch: int = 16,
    device: str = "cpu",
    report: Reporter = ignore,
) -> AutoencoderKL:
    """Train on random 64² crops (see `reconstruction`) and a little KL; returns the averaged
    weights.
    """

    def loss(modules: nn.ModuleDict, step: int) -> Tensor:
        rng = np.random.default_rng([step, 11])
        rows, (ys, xs) = (
            rng.integers(0, len(corpus.images), batch),
            rng.integers(0, 128 - _CROP + 1, (2, batch)),
        )
        crops = [
            corpus.images[r, y : y + _CROP, x : x + _CROP]
            for r, y, x in zip(rows, ys, xs, strict=True)
        ]
        target = to_unit(np.stack(crops), device)
        generator = torch.Generator("cpu").manual_seed(step)
        vae: Any = modules["vae"]
        posterior = vae.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        divergence: Tensor = posterior.kl().float().mean()
        return reconstruction(output, target) + _KL * divergence

    def look(progress: Progress, average: nn.ModuleDict) -> None:
        report(progress)
        if progress.step % 500 == 0:
            vae: Any = average["vae"]
            with torch.no_grad():
                output = vae.decode(
                    vae.encode(to_unit(corpus.images[:8], device)).latent_dist.mode()
                ).sample
            save_sheet(folder / "sheet.png", np.stack([corpus.images[:8], to_bytes(output)]))

    modules = nn.ModuleDict({"vae": build_autoencoder()}).to(device)
    return fit(modules, loss, schedule, folder, report=look)["vae"]


def reconstruction(output: Tensor, target: Tensor) -> Tensor:
    """Absolute and squared error of pixels, and the absolute error of differences and of means at
    three scales.

    The squared error and the means bring the colours of small objects in early; L1 alone leaves
    them grey for long.
    """
    total = (output - target).abs().mean() + 3 * F.mse_loss(output, target)
    for scale in (1, 2, 4):
        a, b = (F.avg_pool2d(x, scale) if scale > 1 else x for x in (output, target))
        total = total + (a - b).abs().mean()
        for dim in (-1, -2):
            total = total + (a.diff(dim=dim) - b.diff(dim=dim)).abs().mean()
    return total


@torch.no_grad()
def encode_latents(
    vae: AutoencoderKL,
    corpus: Corpus,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    batch: int = 64,
) -> NDArray[np.float16]:
    """Posterior means of every picture, (n, 8, 16, 16) float16, unscaled; kept in `path`, resumed
    if stopped.
    """
    count, mark = len(corpus.images), path.with_suffix(".json")
    shape = (count, vae.config.latent_channels, 16, 16)
    done = json.loads(mark.read_text()) if mark.exists() else 0
    latents = np.lib.format.open_memmap(
        path, "r+" if done else "w+", np.float16, None if done else shape
    )
    device = next(vae.parameters()).device
    for start in range(done, count, batch):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            posterior = vae.encode(
                to_unit(corpus.images[start : start + batch], device)
            ).latent_dist
        latents[start : start + batch] = posterior.mean.half().cpu().numpy()
        mark.write_text(str(start + batch))
    return np.asarray(latents)


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
    """v-prediction (Salimans & Ho 2022) on scaled latents, U-Net and text encoder together; returns
    the average.

    `start` holds `unet` and `text_encoder` to go on from, such as the shipped ones; None begins
    with random weights.
    """
    tokenizer, scheduler = build_tokenizer(), build_scheduler()
    empty = torch.tensor(tokenizer("", padding="max_length")["input_ids"])
    cumulated = np.cumsum(picture_weights(corpus.labels))

    def loss(modules: nn.ModuleDict, step: int) -> Tensor:
        rng, generator = np.random.default_rng([step, 13]), torch.Generator("cpu").manual_seed(step)
        rows = np.searchsorted(cumulated, rng.random(batch) * cumulated[-1], side="right")
        wordings = rng.integers(0, CAPTIONS, batch)
        tokens = torch.from_numpy(corpus.tokens[rows, wordings].astype(np.int64))
        tokens[torch.from_numpy(rng.random(batch) < DROP_PROMPT)] = empty
        clean = torch.from_numpy(latents[rows].astype(np.float32)) * vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=generator)
        # one timestep from each of `batch` equal intervals: the loss varies less than with
        # independent ones
        shares = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        times = (1000 * TIME_SHIFT * shares / (1 + (TIME_SHIFT - 1) * shares)).long().clamp(max=999)
        noisy, target = (
            scheduler.add_noise(clean, noise, times),
            scheduler.get_velocity(clean, noise, times),
        )
        text = modules["text_encoder"](tokens.to(device))[0]
        output = modules["unet"](noisy.to(device), times.to(device), text).sample
        return F.mse_loss(output.float(), target.to(device))

    def look(progress: Progress, average: nn.ModuleDict) -> None:
        report(progress)
        if progress.step % 1000 == 0:
            pipeline = build_pipeline(vae=vae, tokenizer=tokenizer, **dict(average.items()))
            pipeline.set_progress_bar_config(disable=True)
            seeds = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(_SHEET))]
            pictures = pipeline(
                _SHEET,
                num_inference_steps=25,
                guidance_scale=3.0,
                generator=seeds,
                output_type="np",
            )
            images = (pictures.images * 255).round().astype(np.uint8)
            save_sheet(
                folder / f"sheet-{progress.step:06d}.png", images.reshape(-1, 5, *images.shape[1:])
            )

    torch.manual_seed(0)
    parts = start or nn.ModuleDict(
        {"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)}
    )
    if (
        device == "cpu"
    ):  # plain attention: a step takes a third less than with the fused kernels' slow backward
        cast(UNet2DConditionModel, parts["unet"]).set_attn_processor(AttnProcessor())
    if compiled:
        parts["unet"].compile()
    return fit(parts.to(device), loss, schedule, folder, report=look)


def picture_weights(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How often each picture is trained on, (n,), by the classes in its label (n, H, W)."""
    shown = np.array(
        [np.bincount(label.ravel(), minlength=256)[1:255] > 0 for label in labels]
    )  # (n, class ids - 1)
    hard = shown[:, np.array(HARD) - 1].any(1)
    return np.where(shown.sum(1) == 2, TWO_CLASSES, 1.0) * np.where(hard, HARD_CLASSES, 1.0)


def save_sheet(path: Path, images: NDArray[np.uint8]) -> None:
    """Write (rows, columns, H, W, 3) pictures as one PNG."""
    rows, columns, height, width, _ = images.shape
    Image.fromarray(images.swapaxes(1, 2).reshape(rows * height, columns * width, 3)).save(path)
