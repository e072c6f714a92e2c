"""How the shipped weights are made: four trainings, each with a folder that it resumes from.

The folder also holds the training's log and sample sheets.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from models.embedded.architecture import build_pipeline, build_text_encoder, build_tokenizer
from models.embedded.corpus import Corpus, open_corpus
from models.embedded.diffusion import train_diffusion
from models.embedded.loop import Schedule
from models.embedded.maskiges import train_tokens
from models.embedded.oracle import Oracle, save_oracle, train_oracle
from models.embedded.tokens import TokenAutoencoder, save_tokens
from models.embedded.training import Reporter, encode_latents, ignore, train_autoencoder
from models.parallel import side_by_side

__all__ = ["Recipe", "make_autoencoder", "make_oracle", "make_pipeline", "make_tokens"]


class Recipe(BaseModel):
    """How long to train, and on how much; the defaults suit a GPU.

    MODEL_CARD.md has the values that the shipped weights were trained with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(
        default=Path("out/pretrain"), description="where state, logs and sheets are kept"
    )
    device: str = Field(default="cpu", description="cpu or cuda")
    images: int = Field(default=100_000, ge=1, description="drawn images to train on")
    autoencoder_steps: int = Field(
        default=10_000, ge=1, description="steps of the autoencoder's training"
    )
    diffusion_steps: int = Field(
        default=40_000, ge=1, description="steps of U-Net and text encoder"
    )
    oracle_steps: int = Field(default=6_000, ge=1, description="steps of the oracle")
    token_steps: int = Field(
        default=6_000, ge=1, description="steps of the token autoencoder of GSS"
    )
    batch: int = Field(default=32, ge=1, description="images per step of the U-Net")
    processes: int = Field(
        default=1,
        ge=1,
        description="parallel processes, on a CPU one per core; batch is each's",
    )
    compiled: bool = Field(
        default=False, description="compile the U-Net; needs a C++ compiler and some minutes"
    )
    start: Path | None = Field(
        default=None, description="pipeline directory to start from; its autoencoder is kept"
    )


def corpus_of(recipe: Recipe) -> Corpus:
    """Return the drawn images; those that do not exist yet are drawn now."""
    return open_corpus(recipe.folder / "corpus", recipe.images, build_tokenizer())


def make_autoencoder(recipe: Recipe, report: Reporter = ignore) -> Path:
    """Train the autoencoder and set its scaling factor; return its directory.

    With `start`, that pipeline's autoencoder is used instead.
    """
    if recipe.start:
        return recipe.start / "vae"
    corpus = corpus_of(recipe)
    folder = recipe.folder / "autoencoder"
    with side_by_side(recipe.processes, _train_autoencoder, recipe):
        vae = _train_autoencoder(recipe, report)
    latents = encode_latents(vae, corpus, recipe.folder / "latents.npy")
    vae.register_to_config(
        scaling_factor=round(1 / float(latents[:4000].astype("float32").std()), 4)
    )
    vae.save_pretrained(folder / "final")
    return folder / "final"


def make_pipeline(recipe: Recipe, autoencoder: Path, report: Reporter = ignore) -> Path:
    """Train U-Net and text encoder and write the pipeline in fp16; return its directory."""
    vae = AutoencoderKL.from_pretrained(autoencoder).to(recipe.device)
    encode_latents(vae, corpus_of(recipe), recipe.folder / "latents.npy")
    with side_by_side(recipe.processes, _train_diffusion, recipe, autoencoder):
        parts = _train_diffusion(recipe, autoencoder, report)
    pipeline = build_pipeline(vae=vae, tokenizer=build_tokenizer(), **dict(parts.items()))
    for part in (pipeline.vae, pipeline.unet):
        part.register_to_config(_name_or_path="")  # not the folder that it was loaded from
    pipeline.to("cpu", torch.float16).save_pretrained(recipe.folder / "pipeline")
    return recipe.folder / "pipeline"


def _started(folder: Path | None) -> nn.ModuleDict | None:
    if folder is None:
        return None
    parts = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    loaded = {
        n: kind.from_pretrained(folder / n, torch_dtype=torch.float32) for n, kind in parts.items()
    }
    had = CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
    loaded["text_encoder"] = with_words(loaded["text_encoder"], had, build_tokenizer())
    return nn.ModuleDict(loaded)


def with_words(
    encoder: CLIPTextModel, had: dict[str, int], tokenizer: CLIPTokenizer
) -> CLIPTextModel:
    """Return the encoder with another vocabulary.

    Tokens of the vocabulary `had` keep their embedding; new ones start at random.
    """
    grown = build_text_encoder(tokenizer)
    new = tokenizer.get_vocab()
    words, fresh = (cast(nn.Embedding, each.get_input_embeddings()) for each in (encoder, grown))
    table = fresh.weight.detach().clone()
    for token in new.keys() & had.keys():
        table[new[token]] = words.weight.detach()[had[token]]
    name = next(name for name, value in encoder.named_parameters() if value is words.weight)
    grown.load_state_dict(encoder.state_dict() | {name: table})
    return grown


def make_oracle(recipe: Recipe, report: Reporter = ignore) -> Path:
    """Train the oracle; return the file of its weights."""
    path = recipe.folder / "oracle.safetensors"
    corpus_of(recipe)
    with side_by_side(recipe.processes, _train_oracle, recipe):
        save_oracle(_train_oracle(recipe, report), path)
    return path


def make_tokens(recipe: Recipe, report: Reporter = ignore) -> Path:
    """Train the token autoencoder; return the file of its weights."""
    path = recipe.folder / "tokens.safetensors"
    corpus_of(recipe)
    with side_by_side(recipe.processes, _train_tokens, recipe):
        save_tokens(_train_tokens(recipe, report), path)
    return path


def _train_autoencoder(recipe: Recipe, report: Reporter = ignore) -> AutoencoderKL:
    schedule = Schedule(recipe.autoencoder_steps, 2e-3, average=0.998, weight_decay=0.0)
    folder = recipe.folder / "autoencoder"
    return train_autoencoder(
        corpus_of(recipe), folder, schedule, device=recipe.device, report=report
    )


def _train_diffusion(recipe: Recipe, autoencoder: Path, report: Reporter = ignore) -> nn.ModuleDict:
    corpus = corpus_of(recipe)
    vae = AutoencoderKL.from_pretrained(autoencoder).to(recipe.device)
    return train_diffusion(
        vae,
        corpus,
        encode_latents(vae, corpus, recipe.folder / "latents.npy"),
        recipe.folder / "diffusion",
        Schedule(recipe.diffusion_steps, 2e-3, decay=1.0, average=0.998),
        start=_started(recipe.start),
        batch=recipe.batch,
        device=recipe.device,
        compiled=recipe.compiled,
        report=report,
    )


def _train_oracle(recipe: Recipe, report: Reporter = ignore) -> Oracle:
    schedule = Schedule(recipe.oracle_steps, 2e-3, decay=0.5, average=0.995)
    return train_oracle(
        corpus_of(recipe), recipe.folder / "oracle", schedule, device=recipe.device, report=report
    )


def _train_tokens(recipe: Recipe, report: Reporter = ignore) -> TokenAutoencoder:
    schedule = Schedule(
        recipe.token_steps, 3e-3, warmup=100, decay=0.5, average=0.995, weight_decay=0.0
    )
    return train_tokens(
        corpus_of(recipe), recipe.folder / "tokens", schedule, device=recipe.device, report=report
    )
