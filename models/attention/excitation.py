"""Attend-and-Excite (Chefer et al. 2023): while a pipeline samples, see to it that no object of the
prompt is left out.

    excitation = Excitation(pipeline, prompts, phrases, strength=0.05) pipeline(prompts,
    callback_on_step_end=excitation, callback_on_step_end_tensor_inputs=excitation.tensors)

Of a prompt that names several objects a diffusion model often draws one, or grows two into one. In
the first half of the steps, where the layout is decided, the latents are pushed so that phrases
attended to nowhere gain attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor

from models.attention.processor import Overheard, grid, split_heads
from models.attention.spans import locate_phrases
from models.smoothing import smooth

__all__ = ["Excitation"]

# The paper's choices: of Stable Diffusion's grids (64² to 8²) that of 16², in 25 of 50 steps. 24²
# is the same of 96².
_LARGEST_GRID = 24**2
_SHARE_OF_STEPS = 0.5
# Latent positions pushed at once: their activations are kept for the gradient. One picture of 512²,
# or 16 of 128².
_POSITIONS = 2**12


class Excitation:
    """A `callback_on_step_end` for one call of `pipeline` with `prompts`, one image each.

    A phrase's neglect is 1 minus the greatest attention that it gets anywhere: that of all its
    tokens together, mean over heads and layers, blurred. A picture's loss is the mean of its
    phrases' squared neglect, and each push goes against its gradient, `strength` of the latents'
    root mean square long. Pictures of fewer than two phrases are left alone. The paper's loss is
    the largest neglect, and it repeats a push until a threshold is reached; on drawn prompts the
    squares did better for three objects and as well for two, with one push a step.

    Raises `ValueError` as `locate_phrases` does.
    """

    tensors: ClassVar[list[str]] = ["latents", "prompt_embeds"]

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        phrases: Sequence[Sequence[str]],
        strength: float,
    ) -> None:
        sampler: Any = pipeline
        self._spans = locate_phrases(sampler.tokenizer, prompts, phrases)
        self._crowded = (self._spans.valid.sum(1) > 1).nonzero().flatten()
        self._strength = strength
        self._processors = dict(sampler.unet.attn_processors)

    def __call__(
        self, pipeline: Any, step: int, _: Any, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Latents for the step after `step`, pushed in the first half of the call."""
        following = step + 1
        if following >= pipeline.num_timesteps * _SHARE_OF_STEPS or not len(self._crowded):
            return {}
        latents, timestep = tensors["latents"].clone(), pipeline.scheduler.timesteps[following]
        prompts = tensors["prompt_embeds"][
            -len(latents) :
        ]  # of a guided call, the half that carries prompts
        at_once = max(1, _POSITIONS // latents[0, 0].numel())
        for start in range(0, len(self._crowded), at_once):
            rows = self._crowded[start : start + at_once]
            scaled = pipeline.scheduler.scale_model_input(latents[rows], timestep)
            push = self._direction(pipeline.unet, scaled, timestep, prompts[rows], rows)
            size = latents[rows].float().square().mean((1, 2, 3), keepdim=True).sqrt()
            latents[rows] -= (self._strength * size * push).to(latents.dtype)
        return {"latents": latents}

    def _direction(
        self, unet: Any, latents: Tensor, timestep: Tensor, prompts: Tensor, rows: Tensor
    ) -> Tensor:
        """Gradient of the pictures' losses, each of root mean square 1, or 0 where there is none."""
        seen = _Attended((latents.shape[-2], latents.shape[-1]))
        with torch.enable_grad(), self._watched(unet, seen):
            moved = latents.detach().requires_grad_(True)
            unet.forward(
                moved, timestep, encoder_hidden_states=prompts
            )  # past a recorder's hooks, which are of calls
            maps = seen.maps(self._spans.weights[rows].to(latents.device))
            loss = _neglect(maps, self._spans.valid[rows].to(latents.device))
            (gradient,) = torch.autograd.grad(
                loss.sum() * 2**10, moved
            )  # half floats would lose a small gradient
        gradient = gradient.float().nan_to_num()
        size: Tensor = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
        return gradient / size.clamp_min(torch.finfo(torch.float32).tiny)

    @contextmanager
    def _watched(self, unet: Any, seen: _Attended) -> Iterator[None]:
        """Inside, the layers' own processors tell `seen`; what others put around them meanwhile
        comes back.
        """
        present = dict(unet.attn_processors)
        unet.set_attn_processor(
            {name: _Telling(each, seen) for name, each in self._processors.items()}
        )
        try:
            yield
        finally:
            unet.set_attn_processor(present)


class _Attended:
    """Sums of cross-attention by grid, kept with their graphs."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._sums: dict[tuple[int, int], list[Tensor]] = {}

    def add(self, probabilities: Tensor) -> None:
        """Of one layer: (B, heads, N, T)."""
        where = grid(probabilities.shape[2], self.size)
        self._sums.setdefault(where, []).append(probabilities.mean(1))

    def maps(self, weights: Tensor) -> Tensor:
        """(B, W, h, w) of the largest grid, in [0, 1]: the attention of all tokens in a phrase's
        row of `weights`.
        """
        height, width = max(self._sums, key=math.prod)
        mean = torch.stack(self._sums[height, width]).mean(0)
        attended = mean @ (weights > 0).to(mean).transpose(1, 2)
        return attended.transpose(1, 2).reshape(len(mean), -1, height, width)


class _Telling:
    """Covers one attention layer's processor; of cross-attention on a grid that is small enough it
    tells `seen`.
    """

    def __init__(self, original: Any, seen: _Attended) -> None:
        self._original = original
        self._seen = seen

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kw: Any,
    ) -> Tensor:
        tells = encoder_hidden_states is not None and hidden_states.shape[1] <= _LARGEST_GRID
        layer: Any = Overheard(attn) if tells else attn
        output: Tensor = self._original(layer, hidden_states, encoder_hidden_states, *args, **kw)
        if tells:
            query = split_heads(layer.query.float(), layer.heads)
            key = split_heads(layer.key.float() * layer.scale, layer.heads)
            self._seen.add((query @ key.transpose(-1, -2)).softmax(-1))
        return output


def _neglect(maps: Tensor, valid: Tensor) -> Tensor:
    """(B,) in [0, 1]: how far each picture's phrases are from owning any place, mean of squares
    over the valid.
    """
    strongest = smooth(maps).amax(
        (-1, -2)
    )  # blurred, so that a phrase has to own a patch rather than one position
    return ((1 - strongest).square() * valid).sum(1) / valid.sum(1)
