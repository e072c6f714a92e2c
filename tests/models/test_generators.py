"""A pipeline directory is checked before it is loaded, and loaded once.

An image depends on its own prompt and seed alone.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.generators import (
    Generated,
    PipelineError,
    Request,
    Sampling,
    check_pipeline,
    fastest_dtype,
    generate,
    load_pipeline,
    resolve_device,
    resolve_dtype,
    sampling,
)

PROMPTS = ["a red car on sand", "a boat and a tree", "grass", "one car"]
PHRASES = [["car", "red car"], ["tree"], [], ["car"]]
SEEDS = [11, 2**62 + 1, 5, 7]


SAMPLING = Sampling(num_inference_steps=3, guidance_scale=3.0)


def make(pipeline: Any, rows: list[int], **options: Any) -> Generated:
    requests = [Request(PROMPTS[i], PHRASES[i], SEEDS[i]) for i in rows]
    return generate(pipeline, requests, SAMPLING, **options)


# Directories


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = json.loads((root / file).read_text()) | changes
        (root / file).write_text(json.dumps(content))

    return change


def remove(*names: str) -> Callable[[Any], object]:
    return lambda root: [(root / name).unlink() for name in names] and None


def cut(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-100]) and None


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(content) and None


UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("model_index.json"), "no model_index.json.*save_pretrained"),
        (write("model_index.json", "{"), "model_index.json is not JSON.*copy it again"),
        (write("model_index.json", "[]"), "model_index.json holds a list"),
        (remove("unet/config.json"), "unet/config.json is missing: copy the whole directory"),
        (remove("scheduler/scheduler_config.json"), "scheduler_config.json is missing"),
        (remove("tokenizer/tokenizer.json"), "tokenizer has neither tokenizer.json nor vocab.json"),
        (remove(UNET), "diffusion_pytorch_model.safetensors is missing"),
        (cut(UNET), "diffusion_pytorch_model.safetensors is cut short.*copy it again"),
        (cut("text_encoder/model.safetensors"), "model.safetensors is cut short"),
        (
            write(UNET + ".index.json", '{"weight_map": {"a": "part-2.safetensors"}}'),
            "part-2.safetensors is missing",
        ),
        (
            write("vae/diffusion_pytorch_model.bin", ""),
            "pickles.*: vae/diffusion_pytorch_model.bin. Delete.*convert",
        ),
        (write("unet/old.CKPT", ""), "pickles.*unet/old.CKPT"),
        (
            edit("model_index.json", _class_name="FluxPipeline"),
            "is of a FluxPipeline; use a Stable",
        ),
        (
            edit("model_index.json", unet=["diffusers", "UNet2DModel"]),
            "unet is diffusers.UNet2DModel; use UNet2D",
        ),
        (
            edit("model_index.json", unet=[None, None]),
            "unet is None.None; use UNet2DConditionModel of diffusers",
        ),
        (
            edit("model_index.json", scheduler=["my_code", "Mine"]),
            "scheduler is my_code.Mine; use a scheduler of diffusers",
        ),
        (
            edit("unet/config.json", _class_name="UNet3DConditionModel"),
            "describes a UNet3DConditionModel",
        ),
        (edit("unet/config.json", block_out_channels=[16, 32, 64]), "diffusers cannot open"),
        (
            edit("vae/config.json", layers_per_block=2),
            "vae lacks .* tensors .* its config.json describes",
        ),
        (edit("text_encoder/config.json", num_hidden_layers=3), "text_encoder lacks 16 tensors"),
        (edit("text_encoder/config.json", intermediate_size=48), "diffusers cannot open"),
    ],
)
def test_a_spoilt_directory_is_refused_with_its_file_and_the_remedy(
    tiny_directory: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    root = tmp_path / "pipeline"
    shutil.copytree(tiny_directory, root)
    spoil(root)
    with pytest.raises(PipelineError, match=message):
        load_pipeline(root, device="cpu")


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match="nowhere is not a directory: name a diffusers pipeline directory"
    ):
        check_pipeline(tmp_path / "nowhere")


def test_weights_in_several_files_are_opened(tiny_pipeline: Any, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    opened: Any = load_pipeline(tmp_path, device="cpu")
    for name, weight in tiny_pipeline.unet.state_dict().items():
        assert torch.equal(weight, opened.unet.state_dict()[name])


def test_a_model_is_loaded_once_whichever_thread_asks(tiny_directory: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: load_pipeline(tiny_directory, device="cpu"), range(8)))
    assert all(each is loaded[0] for each in loaded)
    half: Any = load_pipeline(str(tiny_directory), device="cpu", dtype="bfloat16")
    assert half is not loaded[0] and half.unet.dtype == torch.bfloat16


def test_devices_and_precisions_are_resolved_or_refused() -> None:
    assert resolve_device("cpu") == "cpu" and resolve_device("auto") in ("cuda", "mps", "cpu")
    assert (
        resolve_dtype("auto", "cpu") == torch.float32
        and resolve_dtype("auto", "cuda:1") == torch.float16
    )
    with pytest.raises(
        PipelineError, match=r"device 'cuda:99' is not on this machine, which has: .*cpu"
    ):
        resolve_device("cuda:99")
    with pytest.raises(PipelineError, match="dtype 'int8' is not one of auto, float32"):
        resolve_dtype("int8", "cpu")


def test_the_fastest_precision_is_measured_on_a_copy(tiny_pipeline: Any) -> None:
    before = copy.deepcopy(tiny_pipeline.unet.state_dict())
    assert fastest_dtype(tiny_pipeline, repeats=1) in ("float32", "bfloat16")
    assert all(
        torch.equal(before[name], weight)
        for name, weight in tiny_pipeline.unet.state_dict().items()
    )


# Samples


def test_a_batch_holds_what_was_asked_for(pipeline: Any) -> None:
    seen: list[tuple[int, int]] = []
    made = make(pipeline, [0, 1, 2, 3], callback=lambda step, steps: seen.append((step, steps)))
    side, grid = made.images.shape[1], max(made.cross)
    assert made.images.shape == (4, side, side, 3) and made.images.dtype == np.uint8
    assert made.cross[grid].shape == (4, 2, grid, grid) and made.cross[grid].dtype == np.float16
    assert (
        made.self_attention[grid].shape == (4, grid**2, grid**2)
        and made.self_attention[grid].dtype == np.float16
    )
    assert made.valid.tolist() == [[True, True], [True, False], [False, False], [True, False]]
    assert made.faults == ("", "", "", "") and seen == [(1, 3), (2, 3), (3, 3)]
    assert make(pipeline, [0], self_attention=False).self_attention == {}


def test_a_sample_depends_on_its_prompt_and_seed_alone(pipeline: Any) -> None:
    """Bit for bit at the same position and batch size; else sums run in another order.

    The difference is then one grey level in images and 1e-3 in maps at most.
    """
    batch, again = make(pipeline, [0, 1, 2, 3]), make(pipeline, [0, 1, 2, 3])
    assert np.array_equal(batch.images, again.images)
    for rows in ([0], [1], [3, 2, 1, 0], [2, 0]):
        made = make(pipeline, rows)
        assert np.abs(made.images.astype(int) - batch.images[rows].astype(int)).max() <= 1
        for r, maps in made.cross.items():
            assert np.abs(maps - batch.cross[r][rows, : maps.shape[1]]).max() <= 1e-3
        for r, own in made.self_attention.items():
            assert np.abs(own - batch.self_attention[r][rows]).max() <= 1e-3


def test_images_are_those_of_the_pipeline_itself(pipeline: Any) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS[:2]]
    plain = pipeline(
        PROMPTS[:2], generator=generators, num_inference_steps=3, guidance_scale=3.0
    ).images
    assert np.array_equal(
        make(pipeline, [0, 1]).images, np.stack([np.asarray(image) for image in plain])
    )


def test_threads_that_share_a_pipeline_wait_for_one_another(tiny_pipeline: Any) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda i: make(tiny_pipeline, [i]), range(4)))
    for i, each in enumerate(made):
        assert np.array_equal(each.images, make(tiny_pipeline, [i]).images)


def test_the_tokenizer_is_used_by_one_thread_at_a_time(
    tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its padding is a state: another thread's call between setting and use changes the length."""
    alone = []
    plain = type(tiny_pipeline.tokenizer).__call__

    def watched(self: Any, *texts: Any, **options: Any) -> Any:
        alone.append(sampling._sampling.locked())
        return plain(self, *texts, **options)

    monkeypatch.setattr(type(tiny_pipeline.tokenizer), "__call__", watched)
    requests = [Request("a car and a boat", ["car", "boat"], 1)]
    generate(tiny_pipeline, requests, Sampling(2, 3.0, excitation=1.0))
    assert len(alone) > 2 and all(alone)


def test_an_image_of_nan_is_flagged_and_its_neighbours_are_sound(tiny_pipeline: Any) -> None:
    broken = copy.deepcopy(tiny_pipeline)
    letter = broken.tokenizer("x").input_ids[1]
    broken.text_encoder.get_input_embeddings().weight.data[letter] = torch.nan
    requests = [Request(f"{word} car", ["car"], seed) for seed, word in enumerate("axa", 1)]
    made = generate(broken, requests, Sampling(num_inference_steps=2, guidance_scale=3.0))
    assert made.faults == ("", "NaN", "")
    assert all(
        np.isfinite(maps).all() for maps in (*made.cross.values(), *made.self_attention.values())
    )


def test_a_black_image_is_flagged(tiny_pipeline: Any) -> None:
    broken = copy.deepcopy(tiny_pipeline)
    broken.vae.decoder.conv_out.weight.data.zero_()
    broken.vae.decoder.conv_out.bias.data.fill_(-1)
    assert make(broken, [0, 1]).faults == ("black", "black")


def test_bad_requests_are_refused(tiny_pipeline: Any) -> None:
    half = [Request("a car", ["car"], 1, class_prompt="car"), Request("a car", ["car"], 2)]
    with pytest.raises(ValueError, match="1 of 2 requests have a class_prompt; give all of them"):
        generate(tiny_pipeline, half, SAMPLING)
    with pytest.raises(ValueError, match="'boat' is not a word or phrase"):
        generate(tiny_pipeline, [Request("a car", ["boat"], 1)], SAMPLING)
