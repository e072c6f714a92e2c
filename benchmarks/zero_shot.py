"""Are classes that no real label ever showed learnt from published pictures alone? Against full
supervision.

Both trainings see the same drawn scenes, as the real pictures; of these the one has no labels of
the unseen classes, but all that the night published beside them, and in them as well (`CopyPaste`).
Same recipe, steps and seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.claims import Claim, Size, digest, run
from benchmarks.night import night
from benchmarks.transfer import HELD_OUT, SAMPLES, STEPS, Kept, drawn_scenes, measured
from infra.store import SegmentationDataset
from models import metrics
from models.segmenters import TrainingRecipe
from tasks.train import protocols
from tasks.train.protocols import Protocol, training_set
from tasks.train.train import class_names

UNSEEN = 3  # the last of the vocabulary, as VOC's split takes its last quarter


def main(size: Size) -> list[Claim]:
    made = night(size)
    published = SegmentationDataset(made.store.url, made.version)
    count, classes = SAMPLES[size], class_names(published.manifest.meta["classes"])
    recipe, unseen = TrainingRecipe(steps=STEPS[size]), classes[-UNSEEN:]
    protocol = Protocol("zero-shot", "drawn", count, unseen)
    mixed = Kept(training_set(protocol, published, classes))
    of = f"{made.version} without {','.join(unseen)} by {digest(code=(protocols,))}"
    zero_shot = told(
        "zero-shot", measured("zero-shot", mixed, of, recipe, HELD_OUT[size], classes), unseen
    )
    drawn = drawn_scenes(count, classes)
    full = told(
        "full supervision", measured("drawn", drawn, "", recipe, HELD_OUT[size], classes), unseen
    )
    return [Claim("harmonic mean of zero-shot over full supervision", zero_shot / full, ">= 0.9")]


def told(name: str, found: dict[str, Any], unseen: tuple[str, ...]) -> float:
    """Print seen, unseen and harmonic mean IoU of an evaluation; return the last."""
    iou = np.array([np.nan if value is None else value for value in found["iou"].values()])
    seen, hidden, harmonic = metrics.seen_unseen(
        iou, [list(found["iou"]).index(label) for label in unseen]
    )
    print(
        f"{name}: seen {seen:.3f}, unseen ({', '.join(unseen)}) {hidden:.3f}, harmonic {harmonic:.3f}"
    )
    return harmonic


if __name__ == "__main__":
    run("zero_shot", main)
