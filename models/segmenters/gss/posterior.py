"""Stage I by way of colours: label map → maskige → tokens, and back (Chen et al. 2023, §3.2).

The autoencoder stays as it is. The colours (X) and the reading of a decoded picture (X⁻¹) are
fixed or learned, which makes the paper's variants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.segmenters.gss.autoencoders import build_autoencoder
from models.segmenters.gss.inverses import INVERSES
from models.segmenters.gss.nearest import scores
from models.segmenters.gss.palettes import check_palette, farthest, random_colours, reproduced
from models.segmenters.gss.targets import masked_mean

__all__ = ["MaskigePosterior"]

# Of squared distances between colours in [0, 1]. It only sets how certain the probabilities are.
_TEMPERATURE = 0.02
_GRID = 4  # pixels of a side of what a token stands for: the paper's best grid, H/4 × W/4


class MaskigePosterior(nn.Module):
    """Label map ↔ tokens through a palette and a frozen autoencoder.

    `palette` is "farthest", "random", "reproduced", or a list of RGB in 0 … 255. With `learned` it
    only begins with these colours. `inverse` is "nearest", "conv" or "window". `decode` is
    "expected", which decodes the mean code of the token probabilities, or "argmax".
    Attributes: `channels` of the token logits, `grid`, the pixels of a side of a token.
    """

    palette: Tensor
    grid = _GRID

    def __init__(
        self,
        num_classes: int,
        autoencoder: dict[str, Any],
        palette: Any,
        *,
        inverse: str = "nearest",
        learned: bool = False,
        decode: str = "expected",
    ) -> None:
        super().__init__()
        if decode not in ("expected", "argmax"):
            raise ValueError(f"decode={decode!r}; give expected or argmax")
        self.autoencoder = build_autoencoder(autoencoder)
        self.channels = self.autoencoder.codes
        self._stride = self.autoencoder.stride
        self.num_classes = num_classes
        self.inverse = None if inverse == "nearest" else INVERSES[inverse](num_classes)
        self.learned = learned
        self._expected = decode == "expected"
        colours = _colours(palette, num_classes)
        if learned:
            self.palette = nn.Parameter(colours)
        else:
            self.register_buffer("palette", colours)

    @torch.no_grad()
    def prepare(self) -> None:
        """Choose a palette by what the autoencoder reproduces, once its weights are there."""
        if not self.palette.is_meta and bool(self.palette.isnan().any()):
            device = self.palette.device
            chosen = reproduced(
                self.num_classes, lambda x: self.autoencoder.round_trip(x.to(device)).cpu()
            )
            self.palette.copy_(chosen)

    def encode(self, label: Tensor) -> Tensor:
        """Return the tokens (N, h, w) of label maps (N, H, W) with ids of classes only."""
        with torch.no_grad():
            tokens: Tensor = self.autoencoder.encode(self._paint(label))
        return tokens

    def token_loss(self, logits: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return the mean cross-entropy of the tokens where `valid` (N, h, w) is true."""
        loss = F.cross_entropy(logits.float(), tokens, reduction="none")
        return masked_mean(loss, valid)

    def decode(self, logits: Tensor) -> Tensor:
        """Return the picture (N, 3, H', W') of token logits (N, codes, h, w)."""
        if self._expected:
            found: Tensor = self.autoencoder.decode_expected(logits.float().softmax(1))
        else:
            found = self.autoencoder.decode_tokens(logits.argmax(1))
        return found

    def read(self, pictures: Tensor) -> Tensor:
        """Return class logits (N, K, H, W) of decoded pictures."""
        found = scores(pictures, self.palette, _TEMPERATURE)
        if self.inverse is not None:
            found = found + self.inverse(pictures)
        return F.avg_pool2d(found, self._enlarge) if self._enlarge > 1 else found

    def stage_one(self, label: Tensor) -> Tensor:
        """Return the class logits of label maps that went through the autoencoder."""
        return self.read(self.autoencoder.round_trip(self._paint(label)))

    def extra_losses(
        self, logits: Tensor, label: Tensor, valid: Tensor, *, begins: bool
    ) -> dict[str, Tensor]:
        """Return the losses of X and X⁻¹, from label maps whose pixels count where `valid`.

        The palette is learned only while the training `begins`, as tokens depend on it.
        """
        if not (self.inverse is not None or (self.learned and begins)):
            return {}
        if self.learned:
            self.palette.requires_grad_(begins)
        found = self.stage_one(label)
        loss = F.cross_entropy(found.float(), label, reduction="none")
        return {"loss_stage_one": masked_mean(loss, valid)}

    @property
    def _enlarge(self) -> int:
        return self._stride // _GRID

    def _paint(self, label: Tensor) -> Tensor:
        """Return maskiges, enlarged so that a token of the autoencoder stands for 4² pixels."""
        one_hot = F.one_hot(label, self.num_classes).to(self.palette)
        picture = (one_hot @ self.palette).movedim(-1, 1)
        return F.interpolate(picture, scale_factor=float(self._enlarge), mode="nearest-exact")


def _colours(palette: Any, num_classes: int) -> Tensor:
    if isinstance(palette, list):
        return check_palette(palette, num_classes)
    if palette == "farthest":
        return farthest(num_classes)
    if palette == "random":
        return random_colours(num_classes)
    if palette == "reproduced":  # the autoencoder's weights may come later
        return torch.full((num_classes, 3), float("nan"))
    raise ValueError(
        f"palette={palette!r}; give farthest, random, reproduced or a list of [R, G, B]"
    )
