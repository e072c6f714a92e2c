"""The token autoencoder: images and coloured label maps ↔ a grid of whole numbers.

A small discrete autoencoder for GSS (`models/segmenters/gss`), where DALL·E's stands in the paper.
It was trained on images of the drawn world and on its label maps in random colours.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Residual

__all__ = ["TokenAutoencoder", "load_tokens", "save_tokens"]

_WEIGHTS = Path(__file__).parent / "tokens.safetensors"
_LEVELS = 4  # values that each dimension of a code can take
_DIMENSIONS = 5  # 4^5 = 1,024 codes; a head that predicts 8,192 would take half of a training step
_WIDTHS = (32, 64)  # channels at a half and at a quarter of the image's side
_FOLD = 2  # side of the pixel blocks that become channels


class TokenAutoencoder(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2024) between two small convolutional networks.

    Each dimension of the latent is squashed into [0, 3] and rounded, so there is no codebook to
    learn, and none that can collapse. Images are (B, 3, H, W) float in [0, 1], with sides that
    `stride` divides; tokens are (B, H / stride, W / stride) in 0 … `codes` - 1.
    """

    stride = 4
    codes = _LEVELS**_DIMENSIONS

    def __init__(self) -> None:
        super().__init__()
        fine, coarse = _WIDTHS
        folded = 3 * _FOLD**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(_FOLD),
            nn.Conv2d(folded, fine, 3, padding=1),
            Residual(fine),
            nn.Conv2d(fine, coarse, 2, stride=2),
            Residual(coarse),
            Residual(coarse),
            nn.Conv2d(coarse, _DIMENSIONS, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(_DIMENSIONS, coarse, 3, padding=1),
            *(Residual(coarse) for _ in range(3)),
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            Residual(fine),
            Residual(fine),
            nn.Conv2d(fine, folded, 3, padding=1),
            nn.PixelShuffle(_FOLD),
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return the tokens of images, int64."""
        levels = self._levels(images).round().long()
        return (levels * self._places(levels.device)[:, None, None]).sum(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return images, roughly in [0, 1], of codes (B, dimensions, h, w), also of mixed ones."""
        found: Tensor = self.decoder(codes)
        return found / 2 + 0.5

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Return images of tokens."""
        return self.decode(F.embedding(tokens, self.codebook().to(tokens.device)).movedim(-1, 1))

    def decode_expected(self, probabilities: Tensor) -> Tensor:
        """Return images of the mean code under probabilities (B, codes, h, w)."""
        codebook = self.codebook().to(probabilities)
        return self.decode(torch.einsum("bchw,cd->bdhw", probabilities, codebook))

    def round_trip(self, images: Tensor) -> Tensor:
        """Return images encoded and decoded; gradients pass through the rounding unchanged."""
        levels = self._levels(images)
        rounded = levels + (levels.round() - levels).detach()
        return self.decode(_centred(rounded))

    def codebook(self) -> Tensor:
        """Return the code of each token, (codes, dimensions) in [-1, 1]."""
        tokens = torch.arange(self.codes)[:, None]
        return _centred(tokens // self._places("cpu") % _LEVELS)

    def _levels(self, images: Tensor) -> Tensor:
        latent: Tensor = self.encoder(2 * images - 1)
        return (_LEVELS - 1) * latent.float().sigmoid()

    @staticmethod
    def _places(device: torch.device | str) -> Tensor:
        return _LEVELS ** torch.arange(_DIMENSIONS, device=device)


def _centred(levels: Tensor) -> Tensor:
    return levels * (2 / (_LEVELS - 1)) - 1


def load_tokens(path: Path = _WEIGHTS) -> TokenAutoencoder:
    """Return the autoencoder that ships with the project, in eval mode."""
    tokens = TokenAutoencoder()
    tokens.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return tokens.eval()


def save_tokens(tokens: nn.Module, path: Path = _WEIGHTS) -> None:
    """Write its weights in fp16."""
    state = tokens.state_dict().items()
    save_file({name: value.half().contiguous() for name, value in state}, path)
