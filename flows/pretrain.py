"""Pretraining: trains the embedded diffusion model and the oracle on the drawn world."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.pretrain import Recipe, autoencoder, diffusion, oracle

__all__ = ["pretrain"]


@flow(name="pretrain", flow_run_name="pretrain")
def pretrain(recipe: Recipe) -> tuple[Path, Path]:
    """Train autoencoder, diffusion model and oracle; return pipeline directory and oracle file.

    Args:
        recipe: Steps, data and output directory.
    """
    return diffusion(recipe, autoencoder(recipe)), oracle(recipe)
