"""The dataset card: what a version holds and how it was made, as Markdown for whoever finds it in
the bucket.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pandas as pd

from infra.settings import Settings
from infra.text import as_markdown

__all__ = ["dataset_card"]


@dataclass(frozen=True)
class Kept:
    """What was kept, counted: samples by kind, and images by class that they show."""

    kinds: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, samples: pd.DataFrame) -> Kept:
        """Count the `kind` and the `classes` of some samples."""
        return cls(
            Counter(samples["kind"]),
            Counter(name for names in samples["classes"] for name in names),
        )

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.kinds + other.kinds, self.classes + other.classes)

    @property
    def samples(self) -> int:
        """Number of all."""
        return self.kinds.total()


def dataset_card(version: str, settings: Settings, kept: Kept, planned: int) -> str:
    """Markdown for what was kept of `planned` rows."""
    generator = settings.generator
    parts = ", ".join(f"{count} {kind}" for kind, count in kept.kinds.most_common())
    rows = "\n".join(
        f"| {as_markdown(entry.name)} | {entry.id} | {kept.classes[entry.name]} |"
        for entry in settings.load_vocabulary().classes
    )
    return f"""# {version}

{kept.samples} images with pixel labels, kept of {planned} planned: {parts}.

Labels are uint8: 0 background, the ids below, 255 unsure (leave it out of the loss). Images are uint8 RGB.

| class | id | images |
|---|---|---|
{rows}

Made by segmint from text alone: generator {as_markdown(generator.path)}, {generator.num_inference_steps} steps,
guidance {generator.guidance_scale}, run `{settings.name}`, seed {settings.seed}, settings {settings.identity}. Labels
were read out of the generator's attention and not looked at by anyone. The generator's licence governs what may be done
with the images.
"""
