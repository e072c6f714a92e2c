"""Prompts and seeds into pictures and attention maps, each picture a function of its own prompt and
seed alone.
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

__all__ = ["Generated", "generate"]

_sampling = (
    threading.Lock()
)  # schedulers and recorders keep their state in the pipeline: one call at a time


@dataclass(frozen=True)
class Generated:
    """B pictures and where their prompts' W phrases were looked at (see
    `models.attention.AttentionRecorder`).

    `images`: (B, H, W, 3) uint8 RGB · `cross`: r → (B, W, r, r) float16 in [0, 1] · `valid`: (B, W)
    bool, false where a prompt has fewer phrases and the map is zero · `self_attention`: r → (B, r²,
    r²) float16, rows summing to 1; empty if not asked for · `faults`: a word a picture, "" if
    sound, "NaN" or "black" if the model failed; maps of a picture with NaN are zero where they were
    not numbers.
    """

    images: NDArray[np.uint8]
    cross: dict[int, NDArray[np.float16]]
    valid: NDArray[np.bool_]
    self_attention: dict[int, NDArray[np.float16]]
    faults: tuple[str, ...]


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    phrases: Sequence[Sequence[str]],
    seeds: Sequence[int],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
    class_prompts: Sequence[str] | None = None,
    objects: Sequence[Sequence[str]] | None = None,
    excitation: float = 0.0,
    height: int | None = None,
    width: int | None = None,
    self_attention: bool = True,
    callback: Callable[[int, int], None] | None = None,
) -> Generated:
    """One picture for each prompt and seed, with the attention of its phrases; `callback(step,
    steps)` after each step.

    Noise is drawn on the CPU by a generator a picture, so a picture does not depend on its
    neighbours, its place in the batch or the device. Batch size changes only the order of float32
    sums (`tests/models/test_generators.py` holds it to one grey level). `guidance_rescale` in [0,
    1] brings the guided prediction's spread back to the plain one's (Lin et al. 2024, section 3.4).
    `class_prompts`: see `AttentionRecorder`. `excitation` > 0 is the strength with which a prompt
    of several `objects` (phrases of it; all of `phrases` if not given) is kept from leaving one
    out, see `models.attention.Excitation`. Calls from several threads wait for one another. Raises
    `ValueError` before anything is sampled, as `AttentionRecorder` does.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds: give one seed a prompt")
    sampler: Any = pipeline
    excite = (
        Excitation(pipeline, prompts, phrases if objects is None else objects, excitation)
        if excitation
        else None
    )
    own: dict[str, Any] = {"class_prompts": class_prompts, "self_attention": self_attention}
    with _sampling, AttentionRecorder(sampler, prompts, phrases, **own) as recorder:
        pixels = sampler(
            prompt=list(prompts),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            height=height,
            width=width,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
            callback_on_step_end=_after_each_step(callback, excite),
            callback_on_step_end_tensor_inputs=excite.tensors if excite else ["latents"],
        ).images
    images = (
        (np.nan_to_num(pixels) * 255).round().astype(np.uint8)
    )  # rounds as diffusers does for PIL
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
