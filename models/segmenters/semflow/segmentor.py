"""SemFlow as an mmsegmentation model: one rectified flow from images to masks, and back.

Wang et al. 2024, "SemFlow: Binding Semantic Segmentation and Image Synthesis via Rectified Flow".
Latents of an image are at t = 0, those of its mask at t = 1, and a Stable Diffusion U-Net learns
the velocity between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.metrics import IGNORE
from models.parallel import average
from models.segmenters.openmmlab import MODELS
from models.segmenters.segmentor import OwnSegmentor
from models.segmenters.semflow.architecture import build_autoencoder, build_unet, pipeline_tensors
from models.segmenters.semflow.codes import (
    PALETTES,
    AnchorCodes,
    Generators,
    LearnedCodes,
    decode_images,
    encode_images,
    one_hot,
)
from models.segmenters.semflow.solvers import Velocity, euler, rk45

__all__ = ["SemFlow"]

_CODES = ("anchors", "learned")
_EVERY = 4  # the autoencoder of label maps learns fast: a quarter of each batch is enough for it
_SHOWN_CHANNELS = 32  # beside the latents: a mask, or 0
_FIRST = "unet.conv_in.weight"
_TIMESTEPS = 1000  # the U-Net's scale of time: at t = 0 it expects the image, as in diffusion


@MODELS.register_module(force=True)
class SemFlow(OwnSegmentor):
    """The published flow, or ours.

    `unet`, `autoencoder` and `tokens` describe a Stable Diffusion pipeline (`with_pipeline`).
    `codes` "anchors" is as published: colours through the image's autoencoder, the squared error of
    the velocity, and t drawn evenly; for `palette`, see `AnchorCodes`. "learned" has codes of their
    own, and trains each batch in three parts:

    - a share `start` at t = 0, with the cross-entropy of the mask that one step leads to: there the
      segmentation is decided, and the other times know parts of the mask already;
    - a share `shown` at any t, with the exact mask beside the latents in the U-Net's input, and the
      names of its classes behind the empty text. On the way to the image the mask fades from the
      latents; so images are drawn with both, and with classifier-free `guidance`;
    - the rest at any t without the mask.

    `noise` is the masks' perturbation (see the codes), `steps` the number of Euler steps of a
    prediction; 0 is the adaptive RK45.
    """

    pretrained_parts = ("unet.", "autoencoder.", "text", "words")  # what a pipeline has weights for

    def __init__(
        self,
        num_classes: int,
        unet: dict[str, Any],
        autoencoder: dict[str, Any],
        tokens: int,
        codes: str = "learned",
        palette: str = "anchors",
        noise: float = 0.4,
        steps: int = 1,
        start: float = 0.25,
        shown: float = 0.5,
        guidance: float = 2.0,
        data_preprocessor: Any = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(num_classes, data_preprocessor, train_cfg, test_cfg, init_cfg)
        channels, width = int(autoencoder["latent_channels"]), int(unet["cross_attention_dim"])
        _check(codes, palette, steps, start, shown)
        self.learned = codes == "learned"
        self.start = start if self.learned else 0.0
        self.shown = shown if self.learned else 0.0
        beside = _SHOWN_CHANNELS if self.shown else 0
        self.unet: Any = build_unet(unet | {"in_channels": channels + beside})
        self.autoencoder: Any = build_autoencoder(autoencoder)
        self.factor = 2 ** (len(autoencoder["block_out_channels"]) - 1)
        self.codes: Any = AnchorCodes(num_classes, noise, palette)
        if self.learned:
            self.codes = LearnedCodes(num_classes, channels, noise, self.factor)
        if self.shown:
            # without bias: no mask is 0
            squares = nn.Conv2d(num_classes * self.factor**2, beside, 1, bias=False)
            self.show = nn.Sequential(nn.PixelUnshuffle(self.factor), squares)
            self.register_buffer("words", torch.zeros(1, num_classes, width))
        self.register_buffer("text", torch.zeros(1, tokens, width))
        self.multiple = self.factor * 2 ** (len(unet["block_out_channels"]) - 1)
        self.steps = steps
        self.guidance = guidance

    def init_weights(self) -> None:
        """All weights were drawn when built."""

    def initial_weights(self, pipeline: str, classes: Sequence[str]) -> dict[str, Tensor]:
        """Return the weights to start from by their names here: those of the pipeline.

        The channels beside the latents have weights of 0, so the U-Net begins as it was.
        """
        found = pipeline_tensors(pipeline, classes if self.shown else ())
        first = found[_FIRST]
        beside = self.unet.conv_in.in_channels - first.shape[1]
        return found | {_FIRST: F.pad(first, (0, 0, 0, 0, 0, beside))}

    def train(self, mode: bool = True) -> SemFlow:
        """Set the mode; the image autoencoder is frozen and stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Return the velocity's squared error, and for learned codes two cross-entropies."""
        given = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
        labels = _padded(given[:, None].float(), self.multiple, IGNORE)[:, 0].long()
        image = encode_images(self.autoencoder, _padded(inputs, self.multiple))
        mask = self.codes.encode(labels, self.autoencoder)
        # in fp32: bfloat16 has steps of 1/256 near 1
        time = torch.rand(len(image), device=image.device)
        first = round(self.start * len(image))
        time[:first] = 0
        here = torch.lerp(image, mask, time[:, None, None, None])
        shown = None
        if self.shown:
            shown = one_hot(labels, self.num_classes)
            shown[: len(image) - round(self.shown * len(image))] = 0
        velocity = self._velocity(here, time, shown)
        weight = self._weights(labels)
        error = (velocity - (mask - image)).square().mean(1, keepdim=True)
        losses = {"loss_flow": (error * weight).sum() / average(weight.sum()).clamp_min(1e-6)}
        if self.learned:
            some = labels[::_EVERY]
            losses["loss_codes"] = _cross_entropy(self.codes.round_trip(some), some)
        if first:
            arrived = self.codes.decode(here[:first] + velocity[:first])
            losses["loss_step"] = _cross_entropy(arrived, labels[:first])
        return losses

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Return the image's latents."""
        return encode_images(self.autoencoder, _padded(inputs, self.multiple))

    @torch.no_grad()
    def draw(self, labels: Tensor, steps: int = 25, generators: Generators = None) -> Tensor:
        """Return images (N, 3, H, W) in [-1, 1] for label maps (N, H, W) int64.

        One label map gives many images, because the masks are perturbed. The perturbation of each
        is drawn from its own one of `generators`, else from torch's global generator.
        """
        padded = _padded(labels[:, None].float(), self.multiple, IGNORE)[:, 0].long()
        mask = self.codes.encode(padded, self.autoencoder, generators)
        velocity = self._guided(one_hot(padded, self.num_classes)) if self.shown else self._velocity
        latents = self._integrate(velocity, mask, steps, backwards=True)
        images = decode_images(self.autoencoder, latents)
        return images[..., : labels.shape[1], : labels.shape[2]]

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        latents = self._integrate(self._velocity, self.extract_feat(inputs), self.steps)
        scores: Tensor = self.codes.decode(latents, self.autoencoder)
        return scores[..., : inputs.shape[2], : inputs.shape[3]].float()

    def _integrate(
        self, velocity: Velocity, latents: Tensor, steps: int, *, backwards: bool = False
    ) -> Tensor:
        if steps:
            return euler(velocity, latents, steps, backwards=backwards)
        return rk45(velocity, latents, backwards=backwards)

    def _velocity(self, latents: Tensor, time: Tensor, shown: Tensor | None = None) -> Tensor:
        """Return the velocity; `shown` are one-hot masks (N, classes, H, W), 0 to show none."""
        words: Any = self.text
        mask = None
        if shown is None:
            # no mask: zeros in the channels that the U-Net has for one, if it has them
            beside = self.unet.conv_in.in_channels - latents.shape[1]
            latents = F.pad(latents, (0, 0, 0, 0, 0, beside))
        else:
            latents = torch.cat([latents, self.show(shown)], 1)
            mask = F.pad(shown.flatten(2).amax(2), (words.shape[1], 0), value=1)
            words = torch.cat([words, self.words], 1)
        words = words.expand(len(latents), -1, -1)
        found: Tensor = self.unet(
            latents, time * _TIMESTEPS, words, encoder_attention_mask=mask
        ).sample
        return found.float()

    def _guided(self, shown: Tensor) -> Velocity:
        """Return the velocity from one-hot masks to images."""

        def velocity(latents: Tensor, time: Tensor) -> Tensor:
            found = self._velocity(latents, time, shown)
            if self.guidance == 1:
                return found
            return torch.lerp(self._velocity(latents, time), found, self.guidance)

        return velocity

    def _weights(self, labels: Tensor) -> Tensor:
        """Return the share of labelled pixels in each latent's square, (N, 1, h, w)."""
        return F.avg_pool2d((labels != IGNORE)[:, None].float(), self.factor)


def _check(codes: str, palette: str, steps: int, start: float, shown: float) -> None:
    if palette not in PALETTES:
        raise ValueError(f"SemFlow has palette={palette!r}; give one of {', '.join(PALETTES)}")
    if codes not in _CODES or steps < 0 or not 0 <= start <= start + shown <= 1:
        raise ValueError(
            f"SemFlow has codes={codes!r}, steps={steps}, start={start}, shown={shown}; give "
            f"codes of {', '.join(_CODES)}, steps of at least 0, and shares that add to at "
            "most 1"
        )


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    total = F.cross_entropy(scores.float(), labels, ignore_index=IGNORE, reduction="sum")
    # over all processes that share the batch
    return total / average((labels != IGNORE).sum().float()).clamp_min(1e-6)


def _padded(values: Tensor, multiple: int, fill: float | None = None) -> Tensor:
    """Pad (N, C, H, W) at the bottom and right to sides that `multiple` divides.

    Repeats the last pixels, or fills with a value.
    """
    height, width = (-side % multiple for side in values.shape[2:])
    if not height and not width:
        return values
    edges = (0, width, 0, height)
    if fill is None:
        return F.pad(values, edges, mode="replicate")
    return F.pad(values, edges, value=fill)
