"""Directories of diffusers pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from models.generators import PipelineError, check_pipeline
from tasks.plan.rows import PlanError
from tasks.plan.tokens import load_tokenizer
from tests.malformed import DEEP, Case, Cases, file

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
UNET = "unet/diffusion_pytorch_model.safetensors"


def pipeline(folder: Path) -> Path:
    """Make a directory that passes the checks, although nothing in it could be loaded."""
    weights = safetensors.torch.save({"a": torch.zeros(4)})
    for name, content in {
        "model_index.json": INDEX,
        "unet/config.json": {"_class_name": "UNet2DConditionModel"},
        "vae/config.json": {"_class_name": "AutoencoderKL"},
        "text_encoder/config.json": {},
        "tokenizer/tokenizer_config.json": {},
        "tokenizer/tokenizer.json": {},
        "scheduler/scheduler_config.json": {},
    }.items():
        file(folder / name, json.dumps(content))
    for name in (UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        file(folder / name, weights)
    return folder


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def cases() -> Cases:
    def case(name: str, content: str | bytes, words: str) -> Case:
        def attempt(folder: Path) -> None:
            file(pipeline(folder) / name, content)
            check_pipeline(folder)

        return Case(attempt, PipelineError, words)

    texts: dict[str, str | bytes] = {
        "deep": "[" * DEEP,
        "not UTF-8": b"\xff",
        "list": "[]",
        "cut off": "{",
        "text": '"a"',
        "null": "null",
    }
    for name, text in texts.items():
        yield f"model_index.json: {name}", case("model_index.json", text, r"model_index\.json")
        yield f"unet/config.json: {name}", case("unet/config.json", text, r"unet/config\.json")
    entries = {
        "code of its own": ("unet", ["my_module", "Net"]),
        "a function": ("unet", ["os", "system"]),
        "a list": ("unet", [["os"], "system"]),
        "one word": ("unet", "UNet2DConditionModel"),
        "three words": ("unet", ["a", "b", "c"]),
        "numbers": ("unet", [1, 2]),
        "pipeline for a scheduler": ("scheduler", ["diffusers", "DiffusionPipeline"]),
        "table": ("vae", {"a": 1}),
        "scheduler of its own": ("scheduler", ["evil", "DDIMScheduler"]),
        "other tokenizer": ("tokenizer", ["transformers", "AutoTokenizer"]),
        "custom pipeline": ("_class_name", ["pipeline", "Mine"]),
        "other pipeline": ("_class_name", "Evil"),
    }
    for name, (component, entry) in entries.items():
        yield (
            f"model_index.json: {name}",
            case("model_index.json", json.dumps(INDEX | {component: entry}), "; use "),
        )
    weights = {
        "empty": b"",
        "short": b"\1",
        "no header": b"\0" * 8,
        "header without end": b"\xff" * 8,
        "header longer than the file": (1 << 40).to_bytes(8, "little") + b"{}",
        "no JSON": (2).to_bytes(8, "little") + b"[[",
        "pickle": b"\x80\x02cos\nsystem\n",
        "zip": b"PK\x03\x04" + b"\0" * 40,
        "deep header": DEEP.to_bytes(8, "little") + b"[" * DEEP,
        "tensor of 2^40": header(
            a={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
        ),
        "tensor beyond its end": header(a={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})
        + b"\0" * 8,
        "tensors that overlap": header(
            a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        )
        + b"\0" * 4,
        "shape that overflows": header(
            a={"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]}
        )
        + b"\0" * 4,
        "negative shape": header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]})
        + b"\0" * 4,
        "unknown dtype": header(a={"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]})
        + b"\0" * 4,
        "bytes left over": header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
        + b"\0" * 8,
    }
    for name, content in weights.items():
        yield f"safetensors: {name}", case(UNET, content, r"diffusion_pytorch_model\.safetensors")
    for name, mapped in {
        "parent": {"a": "../../x.safetensors"},
        "absolute": {"a": "/etc/passwd"},
        "NUL": {"a": "x\0"},
        "list": [1],
        "none": {},
        "folder": {"a": ".."},
        "pickle": {"a": "x.bin"},
    }.items():
        yield (
            f"weight_map: {name}",
            case(UNET + ".index.json", json.dumps({"weight_map": mapped}), r"index\.json"),
        )
    for pickle in (
        "unet/model.bin",
        "vae/x.pt",
        "text_encoder/x.PKL",
        "x.ckpt",
        "unet/deep/er/x.pth",
        "a.pickle",
    ):
        yield f"pickle: {pickle}", case(pickle, b"\x80\x04.", f"pickles.*{pickle}")
    files: dict[str, str | bytes] = {
        "cut off": "{",
        "list": "[]",
        "model without vocabulary": '{"model": {"type": "BPE"}}',
        "not UTF-8": b"\xff",
    }
    for name, text in files.items():
        yield (
            f"tokenizer.json: {name}",
            Case(
                lambda d, t=text: load_tokenizer(
                    str(file(pipeline(d) / "tokenizer/tokenizer.json", t).parents[1])
                ),
                PlanError,
                "tokenizer",
            ),
        )
