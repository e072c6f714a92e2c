"""Label maps ↔ latents of the size of the image's.

`AnchorCodes` are the published ones: a colour per class, through the image's autoencoder.
`LearnedCodes` are an autoencoder of label maps, which is trained together with the flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.segmenters.gss.palettes import reproduced

__all__ = [
    "PALETTES",
    "AnchorCodes",
    "Generators",
    "LearnedCodes",
    "anchors",
    "decode_images",
    "encode_images",
    "one_hot",
]

# one for each label map of a batch; None takes torch's global generator for all
Generators = Sequence[torch.Generator] | None

PALETTES = ("anchors", "reproduced")
_WHITE = 255.0  # the colour of pixels without a label
_TEMPERATURE = 0.05  # of scores from squared distances in [-1, 1]
_SHARES = (0.5, 0.25, 0.12)  # of the candidate colours, as `reproduced` tries them
_WIDTH = 128  # channels of the learned codes' autoencoder


def anchors(classes: int) -> Tensor:
    """Return SemFlow's colour of each class (classes, 3), float32 in 0..255.

    The digits of the class in base k, times 250 // (k − 1) (Wang et al. 2024, §3.3), with the least
    k that keeps the corner beside white free. Their k = 6 leaves the first classes all but black.
    """
    base = max(2, math.ceil(round((classes + 1) ** (1 / 3), 6)))
    ids = torch.arange(classes)
    digits = torch.stack([ids // base**2, ids // base % base, ids % base], 1)
    colours: Tensor = digits.float() * (250 // (base - 1))
    return colours


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return label maps (N, H, W) as (N, classes, H, W) float32; pixels of 255 have no class."""
    found = F.one_hot(labels.clamp(max=classes), classes + 1)[..., :-1]
    return found.permute(0, 3, 1, 2).float()


def encode_images(autoencoder: Any, images: Tensor) -> Tensor:
    """Return the scaled latents (N, C, H/8, W/8) of images (N, 3, H, W) in [-1, 1]."""
    with torch.no_grad():
        mean: Tensor = autoencoder.encode(images).latent_dist.mode()
    latents: Tensor = mean.float() * autoencoder.config.scaling_factor
    return latents


def decode_images(autoencoder: Any, latents: Tensor) -> Tensor:
    """Return the images (N, 3, 8H, 8W) of scaled latents (N, C, H, W)."""
    images: Tensor = autoencoder.decode(latents / autoencoder.config.scaling_factor).sample
    return images


def _drawn(draw: Callable[..., Tensor], like: Tensor, generators: Generators) -> Tensor:
    """Return random numbers of a tensor's shape; generators are the CPU's, on every device."""
    if generators is None:
        return draw(like.shape, device=like.device)
    each = [draw(like.shape[1:], generator=generator) for generator in generators]
    return torch.stack(each).to(like.device)


class AnchorCodes(nn.Module):
    """A colour per class, drawn as an image and encoded as one; without weights of its own.

    `noise` is the largest change of a pixel's channel in [-1, 1], drawn evenly (§3.3, "finite
    perturbation"; 0.05 in the released code). White stands for pixels of 255. `palette` "anchors"
    has the published colours; "reproduced" has those that the image's autoencoder reproduces best,
    for one that knows few colours.

    | colours of 11 classes through the embedded autoencoder | mIoU of exact masks that come back |
    |---|---|
    | published | 0.25 |
    | reproduced | 0.87 |
    """

    def __init__(self, classes: int, noise: float, palette: str = "anchors") -> None:
        super().__init__()
        colours = torch.cat([anchors(classes), torch.full((1, 3), _WHITE)]) / 127.5 - 1
        if palette == "reproduced":
            colours[:-1] = torch.nan
        self.register_buffer("colours", colours)
        self.noise = noise

    @torch.no_grad()
    def prepare(self, autoencoder: Any) -> None:
        """Choose the colours by what the autoencoder reproduces, once its weights are there."""
        colours: Any = self.colours
        if not colours.is_meta and bool(colours.isnan().any()):
            chosen = reproduced(len(colours) - 1, partial(_round_trip, autoencoder), shares=_SHARES)
            colours[:-1] = 2 * chosen - 1

    def encode(self, labels: Tensor, autoencoder: Any, generators: Generators = None) -> Tensor:
        """Return the latents of label maps (N, H, W), perturbed."""
        self.prepare(autoencoder)
        colours: Any = self.colours
        images = colours[labels.clamp(max=len(colours) - 1)].permute(0, 3, 1, 2)
        images = images + self.noise * (2 * _drawn(torch.rand, images, generators) - 1)
        return encode_images(autoencoder, images)

    def decode(self, latents: Tensor, autoencoder: Any) -> Tensor:
        """Return log-scores (N, classes, 8h, 8w): the nearer the colour, the higher."""
        self.prepare(autoencoder)
        colours: Any = self.colours
        images = decode_images(autoencoder, latents)
        kernel = colours[:-1, :, None, None].to(images.dtype)
        # −|x − c|² without |x|², which all classes share
        scores = 2 * F.conv2d(images, kernel) - kernel.square().sum((1, 2, 3))[:, None, None]
        found: Tensor = scores / _TEMPERATURE
        return found


def _round_trip(autoencoder: Any, images: Tensor) -> Tensor:
    """Return what comes back of images (N, 3, H, W) in [0, 1]."""
    latents = encode_images(autoencoder, (2 * images - 1).to(autoencoder.device))
    return (decode_images(autoencoder, latents).cpu() + 1) / 2


class LearnedCodes(nn.Module):
    """An autoencoder of label maps whose codes have unit power and survive noise.

    Every position's code has mean square 1, and the decoder reads it through Gaussian noise of
    standard deviation `noise`. So codes of different content are pushed apart as far as the sphere
    allows, and the space between them decodes to the nearer one.

    Both halves compute on the latents' grid; the pixels of a position are channels. With levels in
    between, as image autoencoders have them, learning is slow:

    | after 100 steps of 32 drawn label maps | mIoU of maps that come back | ms per map |
    |---|---|---|
    | this | 0.79; after 300 steps 0.96 | 12 |
    | four levels, from every pixel | 0.26 | 29 |
    """

    def __init__(self, classes: int, channels: int, noise: float, factor: int) -> None:
        super().__init__()
        self.classes = classes
        self.noise = noise
        pixels = classes * factor**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(factor),
            nn.Conv2d(pixels, _WIDTH, 1),
            _Residual(_WIDTH),
            nn.Conv2d(_WIDTH, channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, _WIDTH, 3, padding=1),
            _Residual(_WIDTH),
            _Residual(_WIDTH),
            nn.SiLU(),
            nn.Conv2d(_WIDTH, pixels, 1),
            nn.PixelShuffle(factor),
        )

    @torch.no_grad()
    def encode(
        self, labels: Tensor, autoencoder: Any = None, generators: Generators = None
    ) -> Tensor:
        """Return the noisy codes of label maps (N, H, W)."""
        return self._noisy(labels, generators)

    def decode(self, latents: Tensor, autoencoder: Any = None) -> Tensor:
        """Return logits (N, classes, H, W)."""
        logits: Tensor = self.decoder(latents)
        return logits

    def round_trip(self, labels: Tensor) -> Tensor:
        """Return the logits (N, classes, H, W) of label maps that come back, with gradients."""
        return self.decode(self._noisy(labels, None))

    def _noisy(self, labels: Tensor, generators: Generators) -> Tensor:
        codes = self.encoder(one_hot(labels, self.classes)).float()
        codes = codes / (codes.square().mean(1, keepdim=True) + 1e-6).sqrt()
        noisy: Tensor = codes + self.noise * _drawn(torch.randn, codes, generators)
        return noisy / math.sqrt(1 + self.noise**2)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return x + change
