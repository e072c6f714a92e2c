"""Label maps ↔ latents of the size of the image's.

`AnchorCodes` are the published ones: a colour per class, through the image's autoencoder.
`LearnedCodes` are an autoencoder of label maps, which is trained together with the flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AnchorCodes", "Generators", "LearnedCodes", "anchors", "encode_images"]

# one for each label map of a batch; None takes torch's global generator for all
Generators = Sequence[torch.Generator] | None

_WHITE = 255.0  # the colour of pixels without a label
_TEMPERATURE = 0.05  # of scores from squared distances in [-1, 1]
_WIDTHS = (16, 32, 64, 96)  # channels of the learned codes' autoencoder, from pixels to latents


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


def encode_images(autoencoder: Any, images: Tensor) -> Tensor:
    """Return the scaled latents (N, C, H/8, W/8) of images (N, 3, H, W) in [-1, 1]."""
    with torch.no_grad():
        mean: Tensor = autoencoder.encode(images).latent_dist.mode()
    latents: Tensor = mean.float() * autoencoder.config.scaling_factor
    return latents


def _drawn(draw: Callable[..., Tensor], like: Tensor, generators: Generators) -> Tensor:
    """Return random numbers of a tensor's shape; generators are the CPU's, on every device."""
    if generators is None:
        return draw(like.shape, device=like.device)
    each = [draw(like.shape[1:], generator=generator) for generator in generators]
    return torch.stack(each).to(like.device)


class AnchorCodes(nn.Module):
    """A colour per class, drawn as an image and encoded as one; without weights of its own.

    `noise` is the largest change of a pixel's channel in [-1, 1], drawn evenly (§3.3, "finite
    perturbation"; 0.05 in the released code). White stands for pixels of 255.
    """

    def __init__(self, classes: int, noise: float) -> None:
        super().__init__()
        colours = torch.cat([anchors(classes), torch.full((1, 3), _WHITE)]) / 127.5 - 1
        self.register_buffer("colours", colours, persistent=False)
        self.noise = noise

    def encode(
        self, labels: Tensor, autoencoder: Any, generators: Generators = None
    ) -> tuple[Tensor, Tensor]:
        """Return the latents of label maps (N, H, W), perturbed, twice: for flow and decoder."""
        colours: Any = self.colours
        images = colours[labels.clamp(max=len(colours) - 1)].permute(0, 3, 1, 2)
        images = images + self.noise * (2 * _drawn(torch.rand, images, generators) - 1)
        latents = encode_images(autoencoder, images)
        return latents, latents

    def decode(self, latents: Tensor, autoencoder: Any) -> Tensor:
        """Return log-scores (N, classes, 8h, 8w): the nearer the colour, the higher."""
        colours: Any = self.colours
        images: Tensor = autoencoder.decode(latents / autoencoder.config.scaling_factor).sample
        kernel = colours[:-1, :, None, None].to(images.dtype)
        # −|x − c|² without |x|², which all classes share
        scores = 2 * F.conv2d(images, kernel) - kernel.square().sum((1, 2, 3))[:, None, None]
        found: Tensor = scores / _TEMPERATURE
        return found


class LearnedCodes(nn.Module):
    """An autoencoder of label maps whose codes have unit power and survive noise.

    Every position's code has mean square 1, and the decoder reads it through Gaussian noise of
    standard deviation `noise`. So codes of different content are pushed apart as far as the sphere
    allows, and the space between them decodes to the nearer one.
    """

    def __init__(self, classes: int, channels: int, noise: float) -> None:
        super().__init__()
        self.classes = classes
        self.noise = noise
        fine, *_, coarse = _WIDTHS
        pairs = list(pairwise(_WIDTHS))
        downs = [part for a, b in pairs for part in (_down(a, b), _Residual(b))]
        ups = [part for b, a in reversed(pairs) for part in (_Residual(a), _up(a, b))]
        self.encoder = nn.Sequential(
            nn.Conv2d(classes, fine, 1), *downs, _Residual(coarse), nn.Conv2d(coarse, channels, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, coarse, 3, padding=1),
            _Residual(coarse),
            *ups,
            nn.SiLU(),
            nn.Conv2d(fine, classes, 3, padding=1),
        )

    def encode(
        self, labels: Tensor, autoencoder: Any = None, generators: Generators = None
    ) -> tuple[Tensor, Tensor]:
        """Return the noisy codes of label maps (N, H, W): for the flow, and with gradients."""
        seen = labels.clamp(max=self.classes)  # pixels of 255 have no class at all
        hot = F.one_hot(seen, self.classes + 1)[..., :-1].permute(0, 3, 1, 2).float()
        codes = self.encoder(hot).float()
        codes = codes / (codes.square().mean(1, keepdim=True) + 1e-6).sqrt()
        noisy = codes + self.noise * _drawn(torch.randn, codes, generators)
        noisy = noisy / math.sqrt(1 + self.noise**2)
        return noisy.detach(), noisy

    def decode(self, latents: Tensor, autoencoder: Any = None) -> Tensor:
        """Return logits (N, classes, 8h, 8w)."""
        logits: Tensor = self.decoder(latents)
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return x + change


def _down(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * before, after, 1))


def _up(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2))
