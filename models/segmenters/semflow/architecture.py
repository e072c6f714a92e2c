"""The parts of a Stable Diffusion pipeline that a flow is made of.

A model's config holds them as numbers, so that a checkpoint describes itself without a path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.generators import PipelineError, check_pipeline, load_pipeline, pipeline_folder

__all__ = ["build_autoencoder", "build_unet", "pipeline_tensors", "with_pipeline"]

_ATTENTION = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
_DOWN = {attends: name for name, attends in _ATTENTION.items()}
_AUTOENCODER_BLOCKS = {"DownEncoderBlock2D", "UpDecoderBlock2D"}


def with_pipeline(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's `model` with the numbers of its `pipeline` in place of the path.

    They are the arguments `unet`, `autoencoder` and `tokens` of `SemFlow`. A model without a
    `pipeline` stays as it is. Raises `ValueError` for a pipeline that `check_pipeline` refuses, or
    whose U-Net or autoencoder has other blocks than Stable Diffusion 1.x and 2.x.
    """
    given = dict(model)
    path = given.pop("pipeline", None)
    return given if path is None else given | _description(str(path))


def _description(path: str) -> dict[str, Any]:
    root = pipeline_folder(path)
    try:
        check_pipeline(root)
    except PipelineError as error:
        raise ValueError(str(error)) from error
    unet, autoencoder = (_read(root / part / "config.json") for part in ("unet", "vae"))
    downs = unet["down_block_types"]
    blocks = {*autoencoder["down_block_types"], *autoencoder["up_block_types"]}
    ups = [_UP.get(_ATTENTION.get(name, False)) for name in reversed(downs)]
    if ups != unet["up_block_types"] or blocks != _AUTOENCODER_BLOCKS:
        raise ValueError(
            f"{root} has the blocks {', '.join(sorted({*downs, *blocks}))}; a flow is built from "
            "pipelines with the blocks of Stable Diffusion 1.x and 2.x"
        )
    tokens = _read(root / "tokenizer" / "tokenizer_config.json")["model_max_length"]
    return {
        "unet": _numbers(unet) | {"attention": [_ATTENTION[name] for name in downs]},
        "autoencoder": _numbers(autoencoder),
        "tokens": int(tokens),
    }


def pipeline_tensors(path: str, classes: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return a pipeline's weights under the names that `SemFlow` gives them, float32.

    `text` (1, tokens, width) is the embedding of the empty prompt; `words` (1, classes, width), if
    there are classes, has that of the last token of each name.
    """
    pipeline: Any = load_pipeline(path, device="cpu", dtype="float32")
    with torch.no_grad():
        found = {"text": pipeline.text_encoder(_tokens(pipeline, "").input_ids)[0]}
        if classes:
            words = [_word(pipeline, name) for name in classes]
            found["words"] = torch.stack(words)[None]
    for name, part in (("unet", pipeline.unet), ("autoencoder", pipeline.vae)):
        found |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    return found


def _tokens(pipeline: Any, prompt: str) -> Any:
    most = pipeline.tokenizer.model_max_length
    return pipeline.tokenizer(
        [prompt], padding="max_length", max_length=most, truncation=True, return_tensors="pt"
    )


def _word(pipeline: Any, name: str) -> Tensor:
    """Return the embedding (width,) of the last token of a name in a prompt."""
    tokens = _tokens(pipeline, f"a photo of a {name}")
    last = int(tokens.attention_mask.sum()) - 2  # before the end's own
    embedding: Tensor = pipeline.text_encoder(tokens.input_ids)[0][0, last]
    return embedding


def build_unet(numbers: Mapping[str, Any]) -> nn.Module:
    """Return a U-Net with random weights from the numbers of one."""
    from diffusers import UNet2DConditionModel

    given = dict(numbers)
    attention = given.pop("attention")
    built: nn.Module = UNet2DConditionModel(
        **given,
        down_block_types=tuple(_DOWN[bool(attends)] for attends in attention),
        up_block_types=tuple(_UP[bool(attends)] for attends in reversed(attention)),
    )
    return built


def build_autoencoder(numbers: Mapping[str, Any]) -> nn.Module:
    """Return an image autoencoder with random, frozen weights from the numbers of one."""
    from diffusers import AutoencoderKL

    levels = len(numbers["block_out_channels"])
    built: nn.Module = AutoencoderKL(
        **numbers,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    # encoding takes a third less time on CPUs
    frozen: nn.Module = built.eval().requires_grad_(False)
    return frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def _numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a config, and its lists of numbers."""
    return {name: value for name, value in config.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, int | float)
