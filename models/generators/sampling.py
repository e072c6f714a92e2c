"""Prompts and seeds → images and attention maps.

Each image depends on its own prompt and seed alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from models.attention import AttentionRecorder, Excitation

__all__ = ["Generated", "Request", "Sampling", "generate"]

# Schedulers, recorders and the tokenizer (its padding) keep state in the pipeline, so one call
# samples at a time.
_sampling = threading.Lock()


@dataclass(frozen=True)
class Request:
    """One image: its prompt, its seed, and the phrases of the prompt whose attention is recorded.

    `objects` are the phrases that excitation keeps from being left out; None for all of `phrases`.
    `class_prompt`: see `models.attention.AttentionRecorder`; all requests of a call have one, or
    none has.
    """

    prompt: str
    phrases: Sequence[str]
    seed: int
    objects: Sequence[str] | None = None
    class_prompt: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How images are sampled.

    `guidance_rescale` in [0, 1] brings the guided prediction's standard deviation back to that of
    the prediction without guidance (Lin et al. 2024, section 3.4). `excitation` > 0 is the strength
    with which a prompt of several objects is kept from leaving one out, see
    `models.attention.Excitation`. `height` and `width` are pixels; None is the pipeline's own size.
    """

    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    excitation: float = 0.0
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Generated:
    """B images and the attention maps of their prompts' phrases, W at most.

    `images`: (B, H, W, 3) uint8 RGB. `cross`: r → (B, W, r, r) float16 in [0, 1], see
    `models.attention.AttentionRecorder`. `valid`: (B, W) bool, false where a prompt has fewer
    phrases and the map is zero. `self_attention`: r → (B, r², r²) float16, rows summing to 1; empty
    if not recorded. `faults`: per image "" if sound, else "NaN" or "black", if the model failed.
    Maps of an image with NaN are zero where they were not numbers.
    """

    images: NDArray[np.uint8]
    cross: dict[int, NDArray[np.float16]]
    valid: NDArray[np.bool_]
    self_attention: dict[int, NDArray[np.float16]]
    faults: tuple[str, ...]


def generate(
    pipeline: StableDiffusionPipeline,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    self_attention: bool = True,
    callback: Callable[[int, int], None] | None = None,
) -> Generated:
    """Sample one image per request, with the attention of its phrases.

    `callback(step, steps)` is called after each step. Noise is drawn on the CPU by one generator
    per image, so an image does not depend on its neighbours, its position in the batch or the
    device. The batch size only changes the order of float32 sums (`tests/models/test_generators.py`
    limits the difference to one grey level). Calls from several threads wait for one another.

    Raises `ValueError` before anything is sampled, as `AttentionRecorder` does.
    """
    prompts = [request.prompt for request in requests]
    phrases = [request.phrases for request in requests]
    recorded: Any = {"class_prompts": _class_prompts(requests), "self_attention": self_attention}
    sampler: Any = pipeline
    with _sampling:
        excite = _excitation(pipeline, requests, sampling.excitation)
        with AttentionRecorder(sampler, prompts, phrases, **recorded) as recorder:
            pixels = sampler(
                prompt=prompts,
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.guidance_scale,
                guidance_rescale=sampling.guidance_rescale,
                height=sampling.height,
                width=sampling.width,
                generator=[torch.Generator("cpu").manual_seed(each.seed) for each in requests],
                output_type="np",
                callback_on_step_end=_after_each_step(callback, excite),
                callback_on_step_end_tensor_inputs=excite.tensors if excite else ["latents"],
            ).images
    return _generated(pixels, recorder)


def _excitation(
    pipeline: StableDiffusionPipeline, requests: Sequence[Request], strength: float
) -> Excitation | None:
    if not strength:
        return None
    objects = [each.phrases if each.objects is None else each.objects for each in requests]
    return Excitation(pipeline, [each.prompt for each in requests], objects, strength)


def _class_prompts(requests: Sequence[Request]) -> list[str] | None:
    found = [each.class_prompt for each in requests if each.class_prompt is not None]
    if found and len(found) < len(requests):
        raise ValueError(
            f"{len(found)} of {len(requests)} requests have a class_prompt; give all of them one"
        )
    return found or None


def _generated(pixels: NDArray[np.float32], recorder: AttentionRecorder) -> Generated:
    # rounds as diffusers does for PIL
    images = (np.nan_to_num(pixels) * 255).round().astype(np.uint8)
    return Generated(
        images=images,
        cross=_to_half(recorder.cross),
        valid=recorder.valid.cpu().numpy(),
        self_attention=_to_half(recorder.self_attention),
        faults=tuple(map(_fault, pixels, images)),
    )


def _after_each_step(
    callback: Callable[[int, int], None] | None, excite: Excitation | None
) -> Callable[..., dict[str, Tensor]]:
    def after(
        pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if callback:
            callback(step + 1, pipeline.num_timesteps)
        return excite(pipeline, step, timestep, tensors) if excite else {}

    return after


def _fault(pixels: NDArray[np.float32], image: NDArray[np.uint8]) -> str:
    if not np.isfinite(pixels).all():
        return "NaN"
    return "" if image.any() else "black"


def _to_half(maps: dict[int, Tensor]) -> dict[int, NDArray[np.float16]]:
    return {r: each.nan_to_num().half().cpu().numpy() for r, each in maps.items()}
