"""Checks of a pipeline directory before it is loaded: complete, of a known kind, no pickles.

Only names, JSON files and safetensors headers are read, so a check takes milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from models.pretrained import files_digest, read_json, tensor_shapes

__all__ = ["PipelineError", "check_pipeline", "pipeline_digest", "weight_shapes"]

_PIPELINE = "StableDiffusionPipeline"
# Component → classes, and what its folder must hold; the weights' stem is None where there are none
_COMPONENTS: dict[str, tuple[set[str], str, str | None]] = {
    "unet": ({"UNet2DConditionModel"}, "config.json", "diffusion_pytorch_model"),
    "vae": ({"AutoencoderKL"}, "config.json", "diffusion_pytorch_model"),
    "text_encoder": ({"CLIPTextModel"}, "config.json", "model"),
    "tokenizer": ({"CLIPTokenizer", "CLIPTokenizerFast"}, "tokenizer_config.json", None),
    "scheduler": (set(), "scheduler_config.json", None),  # any of diffusers' own
}
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_MOST_STEPS = 100_000  # of a scheduler; Stable Diffusion's have 1,000
_SAVE_AGAIN = "write the directory again with StableDiffusionPipeline.save_pretrained"


class PipelineError(Exception):
    """A pipeline directory cannot be used; the message names the file and the remedy."""


def check_pipeline(path: str | Path) -> None:
    """Raise `PipelineError` unless `path` is a complete Stable Diffusion pipeline in safetensors.

    Checked in this order: the directory and its model_index.json, pickles anywhere, the
    architecture, each component's configuration, and every file of its weights, also for its
    length. A safety checker is not loaded and not checked.
    """
    root = Path(path)
    if not root.is_dir():
        raise PipelineError(
            f"{root} is not a directory: name a diffusers pipeline directory, or 'embedded'"
        )
    if not (root / "model_index.json").is_file():
        raise PipelineError(
            f"{root} has no model_index.json, so is no diffusers pipeline: {_SAVE_AGAIN}"
        )
    _refuse_pickles(root)
    index = read_json(root / "model_index.json", PipelineError)
    if index.get("_class_name") != _PIPELINE:
        raise PipelineError(
            f"{root}/model_index.json is of a {index.get('_class_name')}; "
            f"use a {_PIPELINE} (1.x or 2.x)"
        )
    for component in _COMPONENTS:
        _check_component(root, component, index.get(component))


def pipeline_digest(path: str | Path) -> str:
    """Return the SHA-256 of names and contents of weights, configurations and vocabularies."""
    return files_digest(Path(path), Path(path).rglob("*"))


def weight_shapes(root: Path, component: str) -> list[tuple[int, ...]]:
    """Return the shapes of a checked component's weights, read from the files' headers."""
    stem = _COMPONENTS[component][2]
    files = _weights(root / component, stem) if stem else []
    return [shape for file in files for shape in tensor_shapes(file)]


def _refuse_pickles(root: Path) -> None:
    pickles = sorted(
        str(file.relative_to(root)) for file in root.rglob("*") if file.suffix.lower() in _PICKLES
    )
    if pickles:
        raise PipelineError(
            f"{root} holds pickles, which can run code when loaded: {', '.join(pickles)}. "
            "Delete them if the same weights exist as .safetensors; "
            f"else convert them where you trust them and {_SAVE_AGAIN}"
        )


def _check_component(root: Path, name: str, entry: Any) -> None:
    classes, config, stem = _COMPONENTS[name]
    library, kind = (
        entry if isinstance(entry, list) and list(map(type, entry)) == [str, str] else (None, None)
    )
    home = "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
    # any other class could run code of its own
    own = kind in classes if classes else str(kind).endswith("Scheduler")
    if library != home or not kind or not own:
        wanted = " or ".join(sorted(classes)) or "a scheduler"
        raise PipelineError(
            f"{root}/model_index.json: {name} is {library}.{kind}; use {wanted} of {home}"
        )
    folder = root / name
    described = read_json(folder / config, PipelineError)
    if stem is not None and home == "diffusers" and described.get("_class_name") != kind:
        raise PipelineError(
            f"{folder / config} describes a {described.get('_class_name')}, "
            f"model_index.json a {kind}: {_SAVE_AGAIN}"
        )
    if name == "scheduler":
        _check_numbers(folder / config, described)
    for file in _weights(folder, stem) if stem else ():
        _check_weights(file)
    if name == "tokenizer" and not (
        _has(folder, "tokenizer.json") or _has(folder, "vocab.json", "merges.txt")
    ):
        raise PipelineError(
            f"{folder} has neither tokenizer.json nor vocab.json and merges.txt: {_SAVE_AGAIN}"
        )


def _check_numbers(file: Path, described: dict[str, Any]) -> None:
    """Refuse a schedule without end; diffusers computes each of its steps when it is loaded."""
    for name, value in described.items():
        if isinstance(value, int) and value > _MOST_STEPS:
            raise PipelineError(
                f"{file}: {name!a} is {value}; give at most {_MOST_STEPS}, or {_SAVE_AGAIN}"
            )


def _has(folder: Path, *names: str) -> bool:
    return all((folder / name).is_file() for name in names)


def _weights(folder: Path, stem: str) -> list[Path]:
    """Return the file of weights, or all files that an index names."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [folder / f"{stem}.safetensors"]
    parts = read_json(index, PipelineError).get("weight_map")
    names = set(map(str, parts.values())) if isinstance(parts, dict) else set()
    if not names or any(
        "/" in name or "\0" in name or not name.endswith(".safetensors") for name in names
    ):
        raise PipelineError(
            f"{index} names no files of its own folder in weight_map: "
            f"copy it again, or {_SAVE_AGAIN}"
        )
    return [folder / name for name in sorted(names)]


def _check_weights(file: Path) -> None:
    if not file.is_file():
        raise PipelineError(f"{file} is missing: copy the whole directory, or {_SAVE_AGAIN}")
    try:
        tensor_shapes(file)  # compares the header with the file's length
    except (SafetensorError, OSError) as error:
        raise PipelineError(f"{file} is cut short or damaged ({error}): copy it again") from None
