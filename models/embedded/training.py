"""Training of the embedded autoencoder, and what the embedded trainings share.

Each training resumes from its folder, logs `log.jsonl` and draws sample sheets beside it. The
figures of the run that made the shipped weights are in MODEL_CARD.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from models.embedded.architecture import build_autoencoder
from models.embedded.corpus import Corpus
from models.embedded.loop import Progress, Schedule, fit

__all__ = ["Reporter", "encode_latents", "ignore", "save_sheet", "to_unit", "train_autoencoder"]

_CROP = 64  # pixels of a side of the crops that the autoencoder is trained on
_KL = 1e-6  # weight of the divergence, as of Stable Diffusion's autoencoder
_SHEET_EVERY = 500  # steps

Reporter = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Do nothing with a report."""


def to_unit(images: NDArray[np.uint8] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [-1, 1]."""
    return torch.as_tensor(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in [-1, 1] → (B, H, W, 3) uint8."""
    levels = (images.float().clamp(-1, 1) + 1) * 127.5
    return np.asarray(levels.round().byte().permute(0, 2, 3, 1).cpu())


def train_autoencoder(
    corpus: Corpus,
    folder: Path,
    schedule: Schedule,
    *,
    batch: int = 16,
    device: str = "cpu",
    report: Reporter = ignore,
) -> AutoencoderKL:
    """Train on random 64² crops; return the averaged weights.

    The loss is `reconstruction`, and the posterior's divergence with a small weight.
    """

    def look(progress: Progress, average: nn.ModuleDict) -> None:
        report(progress)
        if progress.step % _SHEET_EVERY == 0:
            _reconstruct_sheet(average["vae"], corpus, folder / "sheet.png", device)

    modules = nn.ModuleDict({"vae": build_autoencoder()}).to(device)
    loss = partial(_autoencoder_loss, corpus, batch, device)
    return fit(modules, loss, schedule, folder, report=look)["vae"]


def _autoencoder_loss(
    corpus: Corpus, batch: int, device: str, modules: nn.ModuleDict, step: int
) -> Tensor:
    """Return the loss of a batch of crops, drawn from `step` alone."""
    rng = np.random.default_rng([step, 11])
    rows = rng.integers(0, len(corpus.images), batch)
    ys, xs = rng.integers(0, 128 - _CROP + 1, (2, batch))
    crops = [
        corpus.images[r, y : y + _CROP, x : x + _CROP] for r, y, x in zip(rows, ys, xs, strict=True)
    ]
    target = to_unit(np.stack(crops), device)
    generator = torch.Generator("cpu").manual_seed(step)
    vae: Any = modules["vae"]
    posterior = vae.encode(target).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
    output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    divergence: Tensor = posterior.kl().float().mean()
    return reconstruction(output, target) + _KL * divergence


@torch.no_grad()
def _reconstruct_sheet(vae: Any, corpus: Corpus, path: Path, device: str) -> None:
    """Write eight images and below them their reconstructions."""
    originals = corpus.images[:8]
    output = vae.decode(vae.encode(to_unit(originals, device)).latent_dist.mode()).sample
    save_sheet(path, np.stack([originals, to_bytes(output)]))


def reconstruction(output: Tensor, target: Tensor) -> Tensor:
    """Return the reconstruction loss of images (B, 3, H, W) in [-1, 1].

    Absolute and squared error of pixels, and at three scales the absolute error of means and of
    differences between neighbours. With L1 alone small objects stay grey for long; the squared
    error and the means bring in their colours early.
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
    """Return the posterior mean of every image, (n, 8, 16, 16) float16, unscaled.

    They are kept in the file `path`; a stopped call resumes there.
    """
    count = len(corpus.images)
    mark = path.with_suffix(".json")  # the number of images that are done
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


def save_sheet(path: Path, images: NDArray[np.uint8]) -> None:
    """Write images (rows, columns, H, W, 3) as one PNG."""
    rows, columns, height, width, _ = images.shape
    Image.fromarray(images.swapaxes(1, 2).reshape(rows * height, columns * width, 3)).save(path)
