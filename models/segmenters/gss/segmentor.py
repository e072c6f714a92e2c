"""GSS as an mmsegmentation model, and its variants by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.metrics import IGNORE
from models.parallel import rank_and_count
from models.segmenters.gss.bits import BitPosterior
from models.segmenters.gss.head import TokenHead
from models.segmenters.gss.posterior import MaskigePosterior
from models.segmenters.gss.targets import Filled, fill, masked_mean
from models.segmenters.openmmlab import MODELS
from models.segmenters.segmentor import OwnSegmentor

__all__ = ["GSS", "VARIANTS"]

_TOKENS = 0.8  # weights of the token loss and the pixel loss, as in the released configs
_PIXELS = 0.2
# Share of the steps in which colours or bit codes are learned. After it they stay: tokens are what
# the rest of the network learns to predict.
_BEGINS = 0.3
_ENDS = 0.8  # from here on "ft-w" trains its reading alone; 160k of 200k steps in the paper
_STAGE_ONE = 4  # a stage-I loss takes every fourth picture: a decoder at full size is expensive

VARIANTS: dict[str, dict[str, Any]] = {
    "ff": {"palette": "reproduced"},
    "ff-r": {"palette": "random"},
    "ft": {"palette": "reproduced", "inverse": "conv"},
    "ft-w": {"palette": "reproduced", "inverse": "window"},
    "tf": {"palette": "reproduced", "learned": True},
    "tt": {"palette": "reproduced", "learned": True, "inverse": "conv"},
    "codes": {},
}


@MODELS.register_module(force=True)
class GSS(OwnSegmentor):
    """An image's label map, generated as tokens of a picture of it.

    `backbone` is mmsegmentation's, the first level at a quarter of the image's side; `decode_head`
    holds `num_classes` and the sizes of `TokenHead`. Variants:

    | variant | colours (X) | reading (X⁻¹) |
    |---|---|---|
    | ff, ff-r | `palette`; random | nearest colour |
    | ft, ft-w | `palette` | three convolutions; window block, trained last on predictions |
    | tf, tt | learned | nearest colour; three convolutions |
    | codes | none: bit codes (`bits`) | class logits |

    `posterior` changes stage I: `bits` of "codes"; of the others `autoencoder`, `decode` and, but
    for "ff-r", `palette` (see `MaskigePosterior`).
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        decode_head: dict[str, Any],
        variant: str = "ff",
        posterior: dict[str, Any] | None = None,
        data_preprocessor: Any = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        num_classes = int(decode_head["num_classes"])
        super().__init__(num_classes, data_preprocessor, train_cfg, test_cfg, init_cfg)
        self.posterior = _posterior(variant, num_classes, posterior or {})
        self.backbone = MODELS.build(backbone)
        self.decode_head = TokenHead(**decode_head, outputs=self.posterior.channels)
        self.variant = variant
        self.done = 0.0

    def init_weights(self) -> None:
        """Draw the weights of the backbone; all others were drawn when built."""
        self.backbone.init_weights()

    def at_share(self, done: float) -> None:
        """Learn which share of the training's steps is done, in [0, 1]."""
        self.done = done

    @property
    def reads_only(self) -> bool:
        """Whether only the reading is trained: at the end of "ft-w"."""
        return self.variant == "ft-w" and self.done >= _ENDS

    def train(self, mode: bool = True) -> GSS:
        """Set training mode; what is frozen evaluates, so that none of its statistics drift.

        The released code leaves the batch norms of frozen parts in training mode.
        """
        super().train(mode)
        if isinstance(self.posterior, MaskigePosterior):
            self.posterior.autoencoder.eval()
        if self.reads_only:
            self.backbone.eval()
            self.decode_head.eval()
        return self

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Return the losses of tokens and pixels, and those of a learned X or X⁻¹."""
        self.posterior.prepare()
        label = torch.stack([sample.gt_sem_seg.data for sample in data_samples]).squeeze(1)
        if self.reads_only:
            return self._reading_loss(inputs, label)
        branches = self.decode_head(self.extract_feat(inputs))
        pixels = _resized(branches.pixels, label.shape[1:])
        target = fill(label, pixels.argmax(1), self.posterior.grid)
        tokens = _resized(branches.tokens, target.tokens.shape[1:])
        wanted = self.posterior.encode(target.label)
        return {
            "loss_tokens": _TOKENS * self.posterior.token_loss(tokens, wanted, target.tokens),
            "loss_pixels": _PIXELS * _pixel_loss(pixels, label),
            **self._stage_one(tokens, target),
        }

    def _stage_one(self, tokens: Tensor, target: Filled) -> dict[str, Tensor]:
        every = 1 if self.variant == "codes" else _STAGE_ONE
        first = -rank_and_count()[0] * len(tokens) % every  # every fourth of the whole batch
        pixels = target.pixels
        if first >= len(tokens):  # none is here, and the others wait for this process's count
            first = 0
            pixels = torch.zeros_like(pixels)
        picked = (part[first::every] for part in (tokens, target.label, pixels))
        return self.posterior.extra_losses(*picked, begins=self.done < _BEGINS)

    def _reading_loss(self, inputs: Tensor, label: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            pictures = self.posterior.decode(self._tokens(inputs))
        found = self.posterior.read(pictures)[..., : label.shape[1], : label.shape[2]]
        return {"loss_reading": _pixel_loss(found, label)}

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Return the backbone's feature maps, the finest first."""
        return list(self.backbone(inputs))

    @torch.no_grad()
    def reconstruct(self, label: Tensor) -> Tensor:
        """Return what comes back of label maps (N, H, W) through stage I alone, (N, H, W)."""
        self.posterior.prepare()
        target = fill(label, torch.zeros_like(label), self.posterior.grid)
        found = self.posterior.stage_one(target.label)
        return found.argmax(1)[:, : label.shape[1], : label.shape[2]]

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """Return class logits (N, classes, H, W)."""
        self.posterior.prepare()
        found = self.posterior.read(self.posterior.decode(self._tokens(inputs)))
        return found[..., : inputs.shape[2], : inputs.shape[3]]

    def _tokens(self, inputs: Tensor) -> Tensor:
        size = [-(-side // self.posterior.grid) for side in inputs.shape[2:]]
        return _resized(self.decode_head(self.extract_feat(inputs)).tokens, size)


def _posterior(
    variant: str, num_classes: int, given: dict[str, Any]
) -> MaskigePosterior | BitPosterior:
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r}; give one of {', '.join(VARIANTS)}")
    allowed = {"bits"} if variant == "codes" else {"autoencoder", "palette", "decode"}
    allowed -= {"palette"} if variant == "ff-r" else set()
    if unused := sorted(given.keys() - allowed):
        raise ValueError(
            f"posterior has {', '.join(unused)}, unused by {variant!r}; leave that out"
        )
    if variant == "codes":
        return BitPosterior(num_classes, **given)
    usual = {"autoencoder": {"type": "EmbeddedTokens"}}
    return MaskigePosterior(num_classes, **{**usual, **VARIANTS[variant], **given})


def _resized(logits: Tensor, size: Any) -> Tensor:
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


def _pixel_loss(logits: Tensor, label: Tensor) -> Tensor:
    loss = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    return masked_mean(loss, (label != IGNORE).float())
