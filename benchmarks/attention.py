"""What does the attention recorder cost? Images must be identical with it, and time and peak memory
at most 1.05 times those without it.

Two models: the embedded one, and a U-Net of Stable Diffusion 1.5's shape with random weights, whose
images mean nothing but take as much computation. Times are of interleaved calls in one process;
each peak is of a process of its own.
"""

from __future__ import annotations

import json
import resource
import string
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.claims import CACHE, Claim, Size, run
from models.attention import AttentionRecorder
from models.generators import load_pipeline, resolve_device, resolve_dtype

Model = Literal["embedded", "SD-1.5-shaped"]
Mode = Literal["off", "on", "on with self-attention"]

PROMPT = "a small red car and two trees on wet sand"
PHRASES = ["car", "trees"]


class Amount(NamedTuple):
    """How much is measured of a model."""

    images: int  # per call
    steps: int
    pairs: int  # timed calls
    processes: int  # for the peak


PLAN: dict[Size, dict[Model, Amount]] = {
    "quick": {"embedded": Amount(2, 2, 2, 1), "SD-1.5-shaped": Amount(1, 1, 1, 1)},
    "default": {"embedded": Amount(8, 10, 15, 3), "SD-1.5-shaped": Amount(1, 2, 7, 2)},
    "full": {"embedded": Amount(16, 25, 15, 3), "SD-1.5-shaped": Amount(4, 20, 15, 3)},
}


def build_sd15() -> Any:
    """Return a pipeline with a U-Net of Stable Diffusion 1.5's shape and random weights (860 M).

    Text encoder and decoder are small substitutes.
    """
    torch.manual_seed(0)
    device = resolve_device("auto")
    letters = [*string.ascii_lowercase, "<|startoftext|>", "<|endoftext|>"]
    tokens = [*letters, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocab = {token: number for number, token in enumerate(tokens)}
    text = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=768,
        num_hidden_layers=1,
        bos_token_id=26,
        eos_token_id=27,
    )
    # the rest are diffusers' defaults
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    encoder: Any = CLIPTextModel(text)
    pipeline: Any = StableDiffusionPipeline(
        unet=unet.eval(),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4
        ),
        text_encoder=encoder.eval(),
        tokenizer=CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, resolve_dtype("auto", device))


def open_model(model: Model) -> Any:
    """Return the pipeline, on the best available device."""
    return load_pipeline("embedded") if model == "embedded" else build_sd15()


def sample(pipeline: Any, mode: Mode, images: int, steps: int) -> tuple[np.ndarray, float]:
    """Return the latents of one guided call, and its seconds."""
    prompts = [PROMPT] * images
    generators = [torch.Generator().manual_seed(seed) for seed in range(images)]
    start = time.perf_counter()
    with recorder(pipeline, mode, prompts):
        latents = pipeline(
            prompts, num_inference_steps=steps, generator=generators, output_type="latent"
        ).images
        made = latents.float().cpu().numpy()  # waits for the device
    return made, time.perf_counter() - start


def recorder(pipeline: Any, mode: Mode, prompts: list[str]) -> AbstractContextManager[Any]:
    if mode == "off":
        return nullcontext()
    also_self = mode == "on with self-attention"
    return AttentionRecorder(pipeline, prompts, [PHRASES] * len(prompts), self_attention=also_self)


def print_peak(model: Model, mode: Mode, images: int, steps: int) -> None:
    """Sample once in a process of its own, and print its peak memory in bytes.

    The memory is that of the GPU if there is one.
    """
    sample(open_model(model), mode, images, steps)
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated())
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak(model: Model, mode: Mode, images: int, steps: int) -> int:
    """Return the bytes that `print_peak` prints in a new process."""
    call = f"print_peak({model!r}, {mode!r}, {images}, {steps})"
    code = f"from benchmarks.attention import print_peak; {call}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def compare(pipeline: Any, turn: int, images: int, steps: int) -> dict[str, float]:
    """Return the seconds in each mode, and as "same" whether all latents are equal.

    The modes run one after the other; the first of them changes with `turn`.
    """
    modes: list[Mode] = ["off", "on", "on with self-attention"]
    modes = modes[turn % 3 :] + modes[: turn % 3]
    made = {mode: sample(pipeline, mode, images, steps) for mode in modes}
    same = all(
        np.array_equal(made["off"][0], latents) and latents.std() > 0
        for latents, _ in made.values()
    )
    return {mode: seconds for mode, (_, seconds) in made.items()} | {"same": float(same)}


class Log:
    """Finished measurements in a file, from which a stopped benchmark resumes."""

    def __init__(self, size: Size) -> None:
        self.path = CACHE / f"attention-{size}.json"
        self.found: dict[str, list[Any]] = (
            json.loads(self.path.read_text()) if self.path.exists() else {}
        )

    def repeat(self, key: str, count: int, measure: Callable[[int], Any]) -> list[Any]:
        """Return `measure(0)` … `measure(count - 1)`; those of a stopped run are not repeated."""
        results = self.found.setdefault(key, [])
        for turn in range(len(results), count):
            results.append(measure(turn))
            print(f"{key} {turn + 1}/{count}: {results[-1]}", flush=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.found))
        return results


def claims_of(model: Model, size: Size, log: Log) -> list[Claim]:
    images, steps, pairs, processes = PLAN[size][model]
    modes: tuple[Mode, Mode] = ("off", "on")
    peaks = log.repeat(
        f"{model}, peak bytes",
        processes,
        lambda _: {mode: peak(model, mode, images, steps) for mode in modes},
    )
    pipeline = open_model(model)
    sample(pipeline, "on", images, 1)  # warms up
    timed = log.repeat(
        f"{model}, seconds", pairs, lambda turn: compare(pipeline, turn, images, steps)
    )
    seconds = {mode: median(each[mode] for each in timed) for mode in timed[0]}
    bytes_held = {mode: median(each[mode] for each in peaks) for mode in modes}
    extra = seconds["on with self-attention"] / seconds["off"]
    print(f"{model}: {seconds['off']:.2f} s without recorder, with self-attention x {extra:.3f}")
    return [
        Claim(f"{model}: images identical", min(each["same"] for each in timed), "== 1"),
        Claim(f"{model}: time, on / off", seconds["on"] / seconds["off"], "<= 1.05"),
        Claim(f"{model}: peak memory, on / off", bytes_held["on"] / bytes_held["off"], "<= 1.05"),
    ]


def main(size: Size) -> list[Claim]:
    log = Log(size)
    claims = [claim for model in PLAN[size] for claim in claims_of(model, size, log)]
    log.path.unlink(missing_ok=True)
    return claims


if __name__ == "__main__":
    run("attention", main)
