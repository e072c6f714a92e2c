"""Pretrain: how the shipped weights come about. Needed only by who wants to make them anew.

Each step keeps its state below one folder, resumes from there, and leaves logs and sample sheets beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.embedded.architecture import build_pipeline, build_tokenizer
from models.embedded.corpus import Corpus, open_corpus
from models.embedded.loop import Progress, Schedule
from models.embedded.oracle import save_oracle, train_oracle
from models.embedded.training import encode_latents, train_autoencoder, train_diffusion
from tasks.progress import Report

__all__ = ["PretrainSettings", "autoencoder", "diffusion", "oracle"]


class PretrainSettings(BaseModel):
    """How long and on how much; the defaults are those of a GPU. MODEL_CARD.md tells what the shipped weights had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(default=Path("out/pretrain"), description="where state, logs and sheets are kept")
    device: str = Field(default="cpu", description="cpu or cuda")
    images: int = Field(default=100_000, ge=1, description="drawn pictures to train on")
    autoencoder_steps: int = Field(default=10_000, ge=1)
    diffusion_steps: int = Field(default=40_000, ge=1)
    oracle_steps: int = Field(default=6_000, ge=1)
    batch: int = Field(default=32, ge=1, description="pictures a step of the U-Net")


def corpus_of(settings: PretrainSettings) -> Corpus:
    """The drawn pictures, drawn now unless they are there."""
    return open_corpus(settings.folder / "corpus", settings.images, build_tokenizer())


@task(name="autoencoder")
def autoencoder(settings: PretrainSettings) -> Path:
    """Train the autoencoder and set its scaling factor; returns its directory."""
    corpus, folder = corpus_of(settings), settings.folder / "autoencoder"
    schedule = Schedule(settings.autoencoder_steps, 2e-3, average=0.998, weight_decay=0.0)
    with Report("autoencoder", "pretrain", schedule.steps) as report:
        vae = train_autoencoder(corpus, folder, schedule, device=settings.device, report=_following(report))
    latents = encode_latents(vae, corpus, settings.folder / "latents.npy")
    vae.register_to_config(scaling_factor=round(1 / float(latents[:4000].astype("float32").std()), 4))
    vae.save_pretrained(folder / "final")
    return folder / "final"


@task(name="diffusion")
def diffusion(settings: PretrainSettings, autoencoder_folder: Path) -> Path:
    """Train U-Net and text encoder and write the pipeline in fp16; returns its directory."""
    corpus, vae = corpus_of(settings), AutoencoderKL.from_pretrained(autoencoder_folder).to(settings.device)
    latents = encode_latents(vae, corpus, settings.folder / "latents.npy")
    schedule = Schedule(settings.diffusion_steps, 1e-3, average=0.9995)
    with Report("diffusion", "pretrain", schedule.steps) as report:
        parts = train_diffusion(
            vae, corpus, latents, settings.folder / "diffusion", schedule,
            batch=settings.batch, device=settings.device, report=_following(report),
        )  # fmt: skip
    pipeline = build_pipeline(vae=vae, tokenizer=build_tokenizer(), **dict(parts.items()))
    pipeline.to("cpu", torch.float16).save_pretrained(settings.folder / "pipeline")
    return settings.folder / "pipeline"


@task(name="oracle")
def oracle(settings: PretrainSettings) -> Path:
    """Train the oracle; returns its weights' file."""
    path = settings.folder / "oracle.safetensors"
    schedule = Schedule(settings.oracle_steps, 2e-3, decay=0.5, average=0.995)
    with Report("oracle", "pretrain", schedule.steps) as report:
        folder = settings.folder / "oracle"
        save_oracle(
            train_oracle(corpus_of(settings), folder, schedule, device=settings.device, report=_following(report)), path
        )
    return path


def _following(report: Report) -> Callable[[Progress], None]:
    """Turn a training's step counts into the amounts that a report takes."""
    done = 0

    def follow(progress: Progress) -> None:
        nonlocal done
        report(progress.step - done)
        done = progress.step

    return follow
