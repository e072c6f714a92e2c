"""The context manager around a pipeline call: checks, records, and restores the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from models.attention.processor import Means, RecordingProcessor
from models.attention.spans import locate_phrases

__all__ = ["AttentionRecorder", "UnsupportedPipelineError"]

_SUPPORTED = (
    "the recorder supports pipelines with a fast tokenizer and a UNet2DConditionModel of plain "
    "Attention layers with diffusers' default processors, AttnProcessor2_0 or AttnProcessor "
    "(Stable Diffusion 1 and 2)"
)
_EXTRAS = ("spatial_norm", "group_norm", "norm_cross", "norm_q", "norm_k", "added_kv_proj_dim")


class UnsupportedPipelineError(TypeError):
    """The recorder does not support the pipeline's architecture or its attention processors."""


class AttentionRecorder:
    """Records the attention of `phrases[i]` of `prompts[i]` in one call of `pipeline`.

    Each prompt may have any number of images. The results are set when the block is left, on the
    pipeline's device. B images are in the pipeline's order; W is the most phrases of any prompt:

    - `cross`: grid size r → (B, W, r, r) float32 in [0, 1], the mean over steps, layers and heads
      of that resolution and over the phrase's tokens (DAAM, Tang et al. 2023; DiffuMask §3.2). Zero
      where a prompt has fewer phrases.
    - `valid`: (B, W) bool, false at that padding.
    - `self_attention`: r → (B, r², r²) float32 with rows summing to 1, the mean over steps, layers
      and heads, for r ≤ `max_resolution`; empty unless asked for.

    `class_prompts`, if given, are other texts whose phrases are recorded, such as class names
    alone. Then only classes compete for a position, while the image follows its own prompt (Nguyen
    et al. 2023, "Dataset Diffusion").

    If the image is not square, r is its grid's longer side and the maps are (B, W, h, w) and (B,
    h·w, h·w). Of a guided batch only the conditional half is read. The pipeline reports whether a
    call is guided; for your own sampling loop around `pipeline.unet`, pass `guidance`.

    Raises before anything is sampled: `UnsupportedPipelineError`; `ValueError` if a prompt is too
    long, lacks one of its phrases, or differs from the pipeline's. A recorder may be used again.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        phrases: Sequence[Sequence[str]],
        *,
        class_prompts: Sequence[str] | None = None,
        self_attention: bool = False,
        max_resolution: int = 32,  # 64² of Stable Diffusion 1.5: 537 MB per layer and image
        guidance: bool | None = None,
    ) -> None:
        self._unet = _supported_unet(pipeline)
        self._pipeline: Any
        self._pipeline = pipeline
        self._guidance = guidance
        self._largest = max_resolution**2 if self_attention else 0
        self._spans = locate_phrases(self._pipeline.tokenizer, class_prompts or prompts, phrases)
        self._prompts, self._class_prompts = self._spans.ids, None
        if class_prompts is not None:
            self._prompts = locate_phrases(
                self._pipeline.tokenizer, prompts, [[] for _ in class_prompts]
            ).ids
            self._class_prompts = self._spans.ids
        self.cross: dict[int, Tensor] = {}
        self.self_attention: dict[int, Tensor] = {}
        self.valid = self._spans.valid

    def __enter__(self) -> AttentionRecorder:
        self._images: int | None = None
        self._means = Means(self._largest)
        self._text = self._encode(self._class_prompts)
        self._originals = dict(self._unet.attn_processors)
        covers: dict[str, Any] = {
            name: RecordingProcessor(each, self._means) for name, each in self._originals.items()
        }
        self._unet.set_attn_processor(covers)
        self._hooks: list[RemovableHandle] = [
            self._unet.register_forward_pre_hook(self._on_unet, with_kwargs=True),
            self._pipeline.text_encoder.register_forward_pre_hook(self._on_text, with_kwargs=True),
        ]
        self._encoded = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._unet.set_attn_processor(dict(self._originals))
        cross, own = self._means.mean("cross"), self._means.mean("self")
        self.cross = {
            r: mean.transpose(1, 2).reshape(*mean.shape[::2], *size)
            for r, (mean, size) in cross.items()
        }
        self.self_attention = {r: mean for r, (mean, _) in own.items()}
        del self._means

    @torch.no_grad()
    def _encode(self, ids: Tensor | None) -> Tensor | None:
        """Return hidden states (P, T, d) of token ids, computed as the pipeline's are."""
        encoder = self._pipeline.text_encoder
        text: Tensor | None = None if ids is None else encoder(ids.to(encoder.device))[0]
        return text

    def _on_text(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check the prompts, which the pipeline encodes first, before the negative prompts."""
        ids = args[0] if args else kwargs["input_ids"]
        if self._images is not None:
            raise ValueError(
                "a second pipeline call would be averaged with the first: use one recorder per call"
            )
        if not self._encoded and not torch.equal(ids.cpu(), self._prompts):
            raise ValueError(
                "the pipeline was called with other prompts than the recorder was given"
            )
        self._encoded = True

    def _on_unet(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        guided = self._guided()
        images, left = divmod(sample.shape[0], 2 if guided else 1)
        each, over = divmod(images, len(self._spans.ids))
        if left or over or images != (self._images or images):
            raise ValueError(
                f"{len(self._spans.ids)} prompts were given to the recorder, but the U-Net got a "
                f"batch of {sample.shape[0]} {'with' if guided else 'without'} guidance"
            )
        if self._images is None:
            self._images = images
            self.valid = self._spans.valid.repeat_interleave(each, 0).to(sample.device)
            weights = self._spans.weights.transpose(1, 2).repeat_interleave(each, 0)
            self._means.weights = weights.to(sample.device)
            self._means.text = None if self._text is None else self._text.repeat_interleave(each, 0)
        self._means.size = tuple(sample.shape[-2:])
        self._means.conditional = slice(images, None) if guided else slice(None)

    def _guided(self) -> bool:
        guided = self._guidance
        if guided is None:
            guided = getattr(self._pipeline, "do_classifier_free_guidance", None)
        if guided is None:
            raise ValueError(
                "the pipeline does not say whether it guides: pass guidance=True or False"
            )
        return bool(guided)


def _supported_unet(pipeline: DiffusionPipeline) -> UNet2DConditionModel:
    unet: Any = getattr(pipeline, "unet", None)
    if not isinstance(unet, UNet2DConditionModel):
        held = getattr(pipeline, "transformer", unet)
        raise UnsupportedPipelineError(
            f"{type(pipeline).__name__} samples with {type(held).__name__}; {_SUPPORTED}"
        )
    for name, processor in unet.attn_processors.items():
        layer = unet.get_submodule(name.removesuffix(".processor"))
        extras = [extra for extra in _EXTRAS if getattr(layer, extra, None) is not None]
        if (
            type(layer) is not Attention
            or type(processor) not in (AttnProcessor, AttnProcessor2_0)
            or extras
        ):
            found = ", ".join([type(layer).__name__, type(processor).__name__, *extras])
            raise UnsupportedPipelineError(
                f"{name.removesuffix('.processor')} is {found}; {_SUPPORTED}"
            )
    supported: UNet2DConditionModel = unet
    return supported
