"""Claims of the recorder: pictures identical, time and peak memory at most 1.05 times those without
it.

Two models: the embedded one, and a U-Net of Stable Diffusion 1.5's shape with random weights, whose
pictures mean nothing and whose sums are as long. Times are of interleaved calls in one process,
peaks of a process a call.
"""

from __future__ import annotations

import json
import resource
import string
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.claims import CACHE, Claim, Size, run
from models.attention import AttentionRecorder
from models.generators import load_pipeline, resolve_device, resolve_dtype

Model = Literal["embedded", "SD-1.5-shaped"]
Mode = Literal["off", "on", "on with self-attention"]

PROMPT, PHRASES = "a small red car and two trees on wet sand", ["car", "trees"]
# size → model → pictures a call, steps, timed pairs, processes for the peak
PLAN: dict[Size, dict[Model, tuple[int, int, int, int]]] = {
    "quick": {"embedded": (2, 2, 2, 1), "SD-1.5-shaped": (1, 1, 1, 1)},
    "default": {"embedded": (8, 10, 15, 3), "SD-1.5-shaped": (1, 2, 7, 2)},
    "full": {"embedded": (16, 25, 15, 3), "SD-1.5-shaped": (4, 20, 15, 3)},
}


def build_sd15() -> Any:
    """Random weights in the shape of Stable Diffusion 1.5's U-Net (860 M); text encoder and decoder
    are stand-ins.
    """
    torch.manual_seed(0)
    device = resolve_device("auto")
    letters = [*string.ascii_lowercase, "<|startoftext|>", "<|endoftext|>"]
    vocab = {
        token: i
        for i, token in enumerate(
            [*letters, *(letter + "</w>" for letter in string.ascii_lowercase)]
        )
    }
    text = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=768,
        num_hidden_layers=1,
        bos_token_id=26,
        eos_token_id=27,
    )
    pipeline: Any = StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768
        ).eval(),  # the rest are diffusers' defaults
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4
        ),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, resolve_dtype("auto", device))


def open_model(model: Model) -> Any:
    """The pipeline, on the best device there is."""
    return load_pipeline("embedded") if model == "embedded" else build_sd15()


def sample(pipeline: Any, mode: Mode, pictures: int, steps: int) -> tuple[np.ndarray, float]:
    """Latents of one guided call, and its seconds."""
    prompts = [PROMPT] * pictures
    phrases, also_self = [PHRASES] * pictures, mode == "on with self-attention"
    generators = [torch.Generator().manual_seed(seed) for seed in range(pictures)]
    start = time.perf_counter()
    with (
        nullcontext()
        if mode == "off"
        else AttentionRecorder(pipeline, prompts, phrases, self_attention=also_self)
    ):
        latents = pipeline(
            prompts, num_inference_steps=steps, generator=generators, output_type="latent"
        ).images
        made = latents.float().cpu().numpy()  # waits for the device
    return made, time.perf_counter() - start


def print_peak(model: Model, mode: Mode, pictures: int, steps: int) -> None:
    """For a process of its own: sample once and print the most bytes it ever held, on the GPU if
    there is one.
    """
    sample(open_model(model), mode, pictures, steps)
    on_gpu = torch.cuda.is_available()
    print(
        torch.cuda.max_memory_allocated()
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


def peak(model: Model, mode: Mode, pictures: int, steps: int) -> int:
    """Bytes that `print_peak` printed."""
    code = f"from benchmarks.attention import print_peak; print_peak({model!r}, {mode!r}, {pictures}, {steps})"
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return int(out.split()[-1])


def compare(pipeline: Any, turn: int, pictures: int, steps: int) -> dict[str, float]:
    """Seconds in each mode, one after the other in an order that turns, and whether all latents
    were the same.
    """
    modes: list[Mode] = ["off", "on", "on with self-attention"]
    modes = modes[turn % 3 :] + modes[: turn % 3]
    made = {mode: sample(pipeline, mode, pictures, steps) for mode in modes}
    same = all(
        np.array_equal(made["off"][0], latents) and latents.std() > 0
        for latents, _ in made.values()
    )
    return {mode: seconds for mode, (_, seconds) in made.items()} | {"same": float(same)}


class Log:
    """Finished measurements, kept in a file so that a stopped benchmark goes on; forgotten once all
    are there.
    """

    def __init__(self, size: Size) -> None:
        self.path = CACHE / f"attention-{size}.json"
        self.found: dict[str, list[Any]] = (
            json.loads(self.path.read_text()) if self.path.exists() else {}
        )

    def repeat(self, key: str, count: int, measure: Callable[[int], Any]) -> list[Any]:
        """`measure(0)` … `measure(count - 1)`, less those of an earlier, stopped run."""
        results = self.found.setdefault(key, [])
        for turn in range(len(results), count):
            results.append(measure(turn))
            print(f"{key} {turn + 1}/{count}: {results[-1]}", flush=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.found))
        return results


def claims_of(model: Model, size: Size, log: Log) -> list[Claim]:
    pictures, steps, pairs, processes = PLAN[size][model]
    modes: tuple[Mode, Mode] = ("off", "on")
    peaks = log.repeat(
        f"{model}, peak bytes",
        processes,
        lambda _: {mode: peak(model, mode, pictures, steps) for mode in modes},
    )
    pipeline = open_model(model)
    sample(pipeline, "on", pictures, 1)  # warms up
    timed = log.repeat(
        f"{model}, seconds", pairs, lambda turn: compare(pipeline, turn, pictures, steps)
    )
    seconds = {mode: median(each[mode] for each in timed) for mode in timed[0]}
    bytes_held = {mode: median(each[mode] for each in peaks) for mode in modes}
    extra = seconds["on with self-attention"] / seconds["off"]
    print(
        f"{model}: {seconds['off']:.2f} s without recorder; with self-attention as well {extra:.3f} times that"
    )
    return [
        Claim(f"{model}: pictures identical", min(each["same"] for each in timed), "== 1"),
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
