"""The dataset card: what a version holds and how it was made, as Markdown for whoever finds it in the bucket."""

from __future__ import annotations

import pandas as pd

from infra.settings import Settings
from infra.text import as_markdown

__all__ = ["dataset_card"]


def dataset_card(version: str, settings: Settings, samples: pd.DataFrame, planned: int) -> str:
    """Markdown for the kept `samples` (columns `kind`, `classes`) of `planned` rows."""
    counts = samples["classes"].explode().dropna().value_counts()
    kinds = samples["kind"].value_counts()
    generator = settings.generator
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    rows = "\n".join(
        f"| {as_markdown(entry.name)} | {entry.id} | {counts.get(entry.name, 0)} |"
        for entry in settings.load_vocabulary().classes
    )
    return f"""# {version}

{len(samples)} images with pixel labels, kept of {planned} planned: {parts}.

Labels are uint8: 0 background, the ids below, 255 unsure (leave it out of the loss). Images are uint8 RGB.

| class | id | images |
|---|---|---|
{rows}

Made by segmint from text alone: generator {as_markdown(generator.path)}, {generator.num_inference_steps} steps,
guidance {generator.guidance_scale}, run `{settings.name}`, seed {settings.seed}, settings {settings.identity}. Labels
were read out of the generator's attention and not looked at by anyone. The generator's licence governs what may be done
with the images.
"""
