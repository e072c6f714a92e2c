"""Stage I without colours: label map ↔ bits, by an autoencoder of masks alone.

Beyond the paper. Masks need no image autoencoder (Van Gansbeke & De Brabandere 2024, "A Simple
Latent Diffusion Approach for Panoptic Segmentation and Mask Inpainting"): classes have learned
embeddings (Ji et al. 2023, "DDP"), a token is a row of bits, and what is decoded is class logits,
under cross-entropy. No class lies between two others, as colours do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Residual
from models.segmenters.gss.targets import masked_mean

__all__ = ["BitPosterior"]

_GRID = 4
_EMBED = 16  # channels of a pixel's class
_WIDTH = 64  # channels of a token


class BitPosterior(nn.Module):
    """Label map ↔ `bits` numbers of ±1 per 4² pixels; a network predicts the chance of each bit.

    Encoder and decoder learn from label maps at the training's beginning. Then the encoder stays,
    so that the targets do, and the decoder goes on, on what the network predicts as well.
    """

    grid = _GRID

    def __init__(self, num_classes: int, bits: int = 16) -> None:
        super().__init__()
        if not 1 <= bits <= 64 or num_classes > 1 << bits:
            raise ValueError(
                f"bits={bits} give {1 << max(0, bits)} codes for {num_classes} classes; "
                "give 1 to 64 bits, and no fewer codes than classes"
            )
        self.channels = bits
        self.num_classes = num_classes
        self.classes = nn.Embedding(num_classes, _EMBED)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(_GRID),
            nn.Conv2d(_EMBED * _GRID**2, _WIDTH, 1),
            Residual(_WIDTH, last=1),
            nn.Conv2d(_WIDTH, bits, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(bits, _WIDTH, 3, padding=1),
            Residual(_WIDTH, last=1),
            Residual(_WIDTH, last=1),
            nn.Conv2d(_WIDTH, _EMBED * _GRID**2, 1),
            nn.PixelShuffle(_GRID),
            nn.SiLU(),
        )
        self.conv_seg = nn.Conv2d(_EMBED, num_classes, 3, padding=1)

    def prepare(self) -> None:
        """Nothing is chosen beforehand."""

    def encode(self, label: Tensor) -> Tensor:
        """Return the bits (N, bits, h, w) in {0, 1} float of label maps (N, H, W)."""
        with torch.no_grad():
            return (self._latent(label) > 0).float()

    def token_loss(self, logits: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of the bits where `valid` (N, h, w) is true."""
        loss = F.binary_cross_entropy_with_logits(logits.float(), tokens, reduction="none").mean(1)
        return masked_mean(loss, valid)

    def decode(self, logits: Tensor) -> Tensor:
        """Return features (N, E, H, W) of bit logits, through the mean of each bit in [-1, 1]."""
        found: Tensor = self.decoder((logits.float() / 2).tanh())
        return found

    def read(self, pictures: Tensor) -> Tensor:
        """Return class logits (N, K, H, W) of what `decode` gave."""
        found: Tensor = self.conv_seg(pictures)
        return found

    def stage_one(self, label: Tensor) -> Tensor:
        """Return the class logits of label maps that went through the bits.

        Gradients pass through the signs as through tanh.
        """
        soft = self._latent(label).tanh()
        bits = soft + (soft.sign() - soft).detach()
        return self.read(self.decoder(bits))

    def extra_losses(
        self, logits: Tensor, label: Tensor, valid: Tensor, *, begins: bool
    ) -> dict[str, Tensor]:
        """Return the cross-entropy of the prediction's pixels and, at first, of the label's own."""
        found = {"loss_decoded": _mean_loss(self.read(self.decode(logits)), label, valid)}
        if begins:
            found["loss_stage_one"] = _mean_loss(self.stage_one(label), label, valid)
        return found

    def _latent(self, label: Tensor) -> Tensor:
        found: Tensor = self.encoder(self.classes(label).movedim(-1, 1))
        return found.float()


def _mean_loss(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    return masked_mean(F.cross_entropy(logits.float(), label, reduction="none"), valid)
