"""Pretraining: trains the embedded diffusion model and the oracle on the drawn world."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from infra.settings.places import NO_VALUE, check_places
from tasks.pretrain import Recipe, autoencoder, diffusion, oracle, tokens

__all__ = ["pretrain"]

_FOLDERS = {"folder": NO_VALUE, "start": NO_VALUE}


@flow(name="pretrain", flow_run_name="pretrain")
def pretrain(recipe: Recipe) -> tuple[Path, Path, Path]:
    """Train autoencoder, diffusion model, oracle and token autoencoder.

    Returns the pipeline directory, and the weight files of the oracle and the token autoencoder.

    Args:
        recipe: Steps, data and output directory.
    """
    check_places(recipe.model_dump(mode="json"), lambda: Recipe().model_dump(mode="json"), _FOLDERS)
    return diffusion(recipe, autoencoder(recipe)), oracle(recipe), tokens(recipe)
