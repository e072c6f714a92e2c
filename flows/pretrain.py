"""Pretraining: the drawn world in, the embedded diffusion model and the oracle out."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.pretrain import Recipe, autoencoder, diffusion, oracle

__all__ = ["pretrain"]


@flow(name="pretrain")
def pretrain(recipe: Recipe) -> tuple[Path, Path]:
    """Train autoencoder, then diffusion model, then oracle; returns pipeline directory and oracle
    file.

    Args:
        recipe: How long, on what, and where to leave it.
    """
    return diffusion(recipe, autoencoder(recipe)), oracle(recipe)
