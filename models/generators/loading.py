"""Loads a pipeline directory once per process, from local safetensors, without its code."""

from __future__ import annotations

import copy
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from transformers import CLIPTextModel

from models.generators.checks import PipelineError, check_pipeline, weight_shapes
from models.guard import guarded
from models.limits import limit_of, limited
from models.pretrained import absent_tensors, no_bars

__all__ = ["fastest_dtype", "load_pipeline", "pipeline_folder", "resolve_device", "resolve_dtype"]

EMBEDDED = Path(__file__).parents[1] / "embedded" / "pipeline"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # not needed for text → image

_loaded: dict[tuple[Path, str, torch.dtype], StableDiffusionPipeline] = {}
_loading = threading.Lock()


def pipeline_folder(path: str | Path) -> Path:
    """Return the directory of a pipeline; "embedded" is the one that ships with the project."""
    return (EMBEDDED if str(path) == "embedded" else Path(path)).resolve()


def load_pipeline(
    path: str | Path, *, device: str = "auto", dtype: str = "auto"
) -> StableDiffusionPipeline:
    """Return the pipeline of directory `path`, or of "embedded", in evaluation mode.

    `device` and `dtype` as in `resolve_device` and `resolve_dtype`. Later calls for the same model
    return the same object, from any thread. Raises `PipelineError` for a directory that
    `check_pipeline` refuses or diffusers cannot open, and for a device that does not exist.
    """
    root = pipeline_folder(path)
    where = resolve_device(device)
    key = (root, where, resolve_dtype(dtype, where))
    with _loading:
        if key not in _loaded:
            check_pipeline(root)
            _loaded[key] = _open(*key)
        return _loaded[key]


def _open(root: Path, device: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    local = {"local_files_only": True, "use_safetensors": True}
    kinds: dict[str, Any] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
    }
    try:
        with no_bars(), guarded(root):
            parts = {}
            for name, kind in kinds.items():
                with limited(limit_of(weight_shapes(root, name))):
                    parts[name] = _open_model(kind, root / name, dtype=dtype, **local)
            unused = dict.fromkeys(_UNUSED) | {"requires_safety_checker": False}
            with limited(limit_of([])):  # a scheduler's table of timesteps
                pipeline: Any = StableDiffusionPipeline.from_pretrained(
                    root, **parts, **unused, **local
                )
    except PipelineError:
        raise
    except Exception as error:  # two libraries, with errors of every kind
        raise PipelineError(f"diffusers cannot open {root}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    opened: StableDiffusionPipeline = pipeline.to(device)
    return opened


def _open_model(kind: Any, folder: Path, **options: Any) -> Any:
    """Return the model in `folder`. Raises `PipelineError` if tensors are missing."""
    model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    if absent := absent_tensors(report):
        raise PipelineError(f"{folder} {absent}")
    return model.eval().requires_grad_(False)


def resolve_device(device: str) -> str:
    """Return `device`, or for "auto" the best of this machine: cuda, mps, cpu.

    Raises `PipelineError` if this machine does not have it.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, there in present.items() if there)
    kind, _, number = device.partition(":")
    if not present.get(kind) or (kind == "cuda" and int(number or 0) >= torch.cuda.device_count()):
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise PipelineError(
            f"device {device!r} is not on this machine, which has: {there}. 'auto' takes the best"
        )
    return device


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the precision called `dtype`; "auto" is float32 on a CPU and float16 elsewhere.

    "auto" does not measure: precision changes the images, so a run that resumes on another machine
    would continue with different ones. To use the faster precision, measure it by `fastest_dtype`
    and set it in the settings.
    """
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    if dtype not in _DTYPES:
        raise PipelineError(f"dtype {dtype!r} is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


@torch.no_grad()
def fastest_dtype(pipeline: StableDiffusionPipeline, *, repeats: int = 3) -> str:
    """Return the precision whose U-Net step is fastest here, by measurement on a copy.

    Candidates are float32 and bfloat16 on a CPU, float16 and bfloat16 elsewhere. Processors differ:
    with AVX-512's bf16 instructions bfloat16 is twice as fast, without them 5-80 times slower.
    """
    parts: Any = pipeline
    unet = parts.unet
    tokens = parts.tokenizer.model_max_length
    names = ("float32", "bfloat16") if unet.device.type == "cpu" else ("float16", "bfloat16")
    return min(
        names,
        key=lambda name: _seconds_per_step(copy.deepcopy(unet).to(_DTYPES[name]), tokens, repeats),
    )


def _seconds_per_step(unet: Any, tokens: int, repeats: int) -> float:
    config = unet.config
    like = {"device": unet.device, "dtype": unet.dtype}
    size = config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    latents = torch.zeros(2, config.in_channels, height, width, **like)
    text = torch.zeros(2, tokens, config.cross_attention_dim, **like)
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        unet(
            latents, 1, encoder_hidden_states=text
        ).sample.sum().item()  # item() waits for the device
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
