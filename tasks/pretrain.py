"""Pretrain: trains the shipped weights again, from the drawn world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect import task

from models.embedded.loop import Progress
from models.embedded.pretraining import (
    Recipe,
    make_autoencoder,
    make_oracle,
    make_pipeline,
    make_tokens,
)
from tasks.run.progress import Report

__all__ = ["Recipe", "autoencoder", "diffusion", "oracle", "tokens"]


@task(name="autoencoder", task_run_name="autoencoder")
def autoencoder(recipe: Recipe) -> Path:
    """Train the autoencoder, or copy that of `recipe.start`; return its directory."""
    with Report("autoencoder", "pretrain", recipe.autoencoder_steps) as report:
        return make_autoencoder(recipe, _following(report))


@task(name="diffusion", task_run_name="diffusion")
def diffusion(recipe: Recipe, autoencoder_folder: Path) -> Path:
    """Train U-Net and text encoder; return the pipeline's directory."""
    with Report("diffusion", "pretrain", recipe.diffusion_steps) as report:
        return make_pipeline(recipe, autoencoder_folder, _following(report))


@task(name="oracle", task_run_name="oracle")
def oracle(recipe: Recipe) -> Path:
    """Train the oracle; return its weights' file."""
    with Report("oracle", "pretrain", recipe.oracle_steps) as report:
        return make_oracle(recipe, _following(report))


@task(name="tokens", task_run_name="tokens")
def tokens(recipe: Recipe) -> Path:
    """Train the token autoencoder of GSS; return its weights' file."""
    with Report("tokens", "pretrain", recipe.token_steps) as report:
        return make_tokens(recipe, _following(report))


def _following(report: Report) -> Callable[[Progress], None]:
    """Return a callback that reports the steps done since its last call."""
    done = 0

    def follow(progress: Progress) -> None:
        nonlocal done
        report(progress.step - done)
        done = progress.step

    return follow
