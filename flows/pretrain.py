"""Pretraining: the drawn world in, the embedded diffusion model and the oracle out."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.pretrain import PretrainSettings, autoencoder, diffusion, oracle

__all__ = ["pretrain"]


@flow(name="pretrain")
def pretrain(settings: PretrainSettings) -> tuple[Path, Path]:
    """Train autoencoder, then diffusion model, then oracle; returns pipeline directory and oracle file."""
    return diffusion(settings, autoencoder(settings)), oracle(settings)
