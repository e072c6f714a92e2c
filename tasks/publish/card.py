"""The dataset card: what a version contains and how it was made, as Markdown in the version."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pandas as pd

from infra.settings import RefineSettings, Settings
from infra.text import as_markdown

__all__ = ["Kept", "dataset_card"]


@dataclass(frozen=True)
class Kept:
    """Counts of kept samples: by kind, and images by class that they show."""

    kinds: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, samples: pd.DataFrame) -> Kept:
        """Count the `kind` and the `classes` of some samples."""
        names = (name for names in samples["classes"] for name in names)
        return cls(Counter(samples["kind"]), Counter(names))

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.kinds + other.kinds, self.classes + other.classes)

    @property
    def samples(self) -> int:
        """Number of all samples."""
        return self.kinds.total()


def dataset_card(version: str, settings: Settings, kept: Kept, planned: int) -> str:
    """Markdown about the samples kept of `planned` rows."""
    parts = ", ".join(f"{count} {kind}" for kind, count in kept.kinds.most_common())
    rows = "\n".join(
        f"| {as_markdown(entry.name)} | {entry.id} | {kept.classes[entry.name]} |"
        for entry in settings.load_vocabulary().classes
    )
    made = _from_text(settings) if settings.generator.flow is None else _from_maps(settings)
    return f"""# {version}

{kept.samples} images with pixel labels, of {planned} planned: {parts}.

Labels are uint8: 0 is background, 255 is ignored (leave it out of the loss), and the ids are those
below. Images are uint8 RGB.

| class | id | images |
|---|---|---|
{rows}

{made}
"""


def _run(settings: Settings) -> str:
    return f"run `{settings.name}`, seed {settings.seed}, settings {settings.identity}"


def _from_text(settings: Settings) -> str:
    generator = settings.generator
    sampling = f"{generator.num_inference_steps} steps, guidance {generator.guidance_scale}"
    return f"""Made by segmint from text alone: generator {as_markdown(generator.path)},
{sampling}, {_run(settings)}.
{_labelled(settings.refine)} Nobody has checked them. The generator's licence
governs how the images may be used."""


def _labelled(refine: RefineSettings) -> str:
    """A sentence that says where labels of images of text come from."""
    if refine.method != "labeller":
        return "Labels were read from the generator's attention."
    (labeller,) = refine.labellers
    folders = " and ".join(as_markdown(p) for p in (labeller.path, labeller.detector) if p)
    return f"""Labels were found by the labeller {labeller.kind} in {folders},
digest {labeller.digest}; its licence governs how they may be used."""


def _from_maps(settings: Settings) -> str:
    generator = settings.generator
    return f"""Made by segmint from label maps: SemFlow {as_markdown(str(generator.flow))}
with digest {generator.weights}, {generator.num_inference_steps} steps, {_run(settings)}.
The label maps ({generator.layouts}) are from {as_markdown(str(generator.labels))}
with digest {generator.labels_digest}.
An image was kept if the SemFlow read each class of its label map back from it with an IoU of at
least {settings.select.min_confidence}. Nobody has checked them. The licences of what the SemFlow
was trained on and of the label maps govern how the images may be used."""
