"""Steps: how the attention of a few samples becomes their labels, one image per step.

| run                     | images                                                               |
|-------------------------|----------------------------------------------------------------------|
| all                     | image, attention of the class words, the same spread along           |
|                         | self-attention                                                       |
| labels by colour        | the object found by attention, grown by colour, split by colour      |
| labels by DiffuMask     | seeds, attention after the random walk, agreement of each threshold  |
| labels by a labeller    | none: the label is what it found                                     |
| all                     | label                                                                |
| with noise learning     | held-out prediction, and its loss under the label                    |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infra.store import Store, StoreError
from models.masks import (
    AffinityNet,
    grow_by_colour,
    object_scores,
    split_by_colour,
    walk_attention,
)
from tasks.refine.affinity import read_affinity, seed_labels
from tasks.report.examples import Read, field_reader, labelled, palette_of
from tasks.report.images import Colour, Image8, attention_heat, blank, curve_tile, enlarge, overlay
from tasks.report.sheets import Cell
from tasks.report.stored_run import StoredRun
from tasks.run.layout import shard_path

__all__ = ["draw_steps"]

_TILE = 160  # height of a step's image, pixels; many stand side by side


@dataclass(frozen=True)
class _Traced:
    """A sample's image (1, H, W, 3) uint8, enlarged as `shown`, and its classes' attention.

    `words` and `maps` are (1, C, r, r): attention of the class words, and the same spread along
    self-attention.
    """

    shown: Image8
    image: Tensor
    words: Tensor
    maps: Tensor
    colours: Sequence[Colour]
    classes: Sequence[str]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images of the steps."""
        return self.shown.shape[0], self.shown.shape[1]


def draw_steps(
    store: Store, stored: StoredRun, samples: pd.DataFrame, unreadable: set[str] | None = None
) -> Iterator[tuple[dict[str, Any], Cell]]:
    """Yield each generated sample with classes, and the steps from its attention to its label.

    Samples without stored attention are left out. Paths of damaged shards are added to
    `unreadable`.
    """
    read = field_reader(store, set() if unreadable is None else unreadable)
    method = stored.settings.get("refine", {}).get("method")
    net = _affinity(store, stored.run) if method == "diffumask" else None
    for sample in samples.to_dict("records"):
        traced = _traced(sample, stored, read)
        if traced is None:
            continue
        heats = [
            attention_heat(each[0].numpy(), traced.size, traced.colours)
            for each in (traced.words, traced.maps)
        ]
        steps = _steps(method, traced, net, stored)
        label = labelled(traced.shown, sample, stored, read)
        held_out = _held_out(store, traced, sample, stored, read)
        yield sample, Cell([traced.shown, *heats, *steps, label, *held_out], str(sample["prompt"]))


def _traced(sample: Mapping[str, Any], stored: StoredRun, read: Read) -> _Traced | None:
    count = len(sample["classes"])
    path = sample["image_at"]
    image, cross, spread = (
        read(path, field, sample["id"]) for field in ("image", "cross", "attention")
    )
    if not count or image is None or cross is None or spread is None:
        return None
    return _Traced(
        enlarge(image, _TILE),
        torch.from_numpy(image)[None],
        torch.from_numpy(cross)[None, :count].float(),
        torch.from_numpy(spread)[None, :count].float(),
        [stored.colours[name] for name in sample["classes"]],
        list(sample["classes"]),
    )


def _affinity(store: Store, run: str) -> AffinityNet | None:
    """Return the run's affinity network; None if it does not exist or is damaged."""
    try:
        return read_affinity(store, run)
    except StoreError:
        return None


def _steps(
    method: str | None, traced: _Traced, net: AffinityNet | None, stored: StoredRun
) -> list[Image8]:
    """Return what lies between attention and label by this method."""
    if method == "labeller":
        return []
    return _walk_steps(traced, net, stored) if method == "diffumask" else _colour_steps(traced)


def _colour_steps(traced: _Traced) -> list[Image8]:
    """Return the object found by attention, grown by colour, and split by colour."""
    size = traced.image.shape[1], traced.image.shape[2]
    found = 1 - object_scores(traced.maps, size, traced.words)[:, 0]
    grown = grow_by_colour(traced.image, found)
    steps = (found, grown, split_by_colour(traced.image, grown))
    return [attention_heat(each[0].numpy(), traced.size) for each in steps]


def _walk_steps(traced: _Traced, net: AffinityNet | None, stored: StoredRun) -> list[Image8]:
    """Return seeds, attention after the random walk, and how well each threshold agrees with it."""
    if net is None:
        return [blank(traced.size)] * 3
    rules = [stored.rules[name] for name in traced.classes]
    seeds = seed_labels(traced.image[0], traced.maps[0], traced.words[0], rules).numpy()
    walked = walk_attention(traced.image, traced.maps, net, traced.words)
    agreement = [each.agreement[0].numpy() for each in walked.fitted]
    return [
        overlay(traced.shown, enlarge(seeds, traced.size[0]), dict(enumerate(traced.colours, 1))),
        attention_heat(walked.scores[0, 1:].numpy(), traced.size, traced.colours),
        curve_tile(agreement, traced.size, traced.colours),
    ]


def _held_out(
    store: Store, traced: _Traced, sample: Mapping[str, Any], stored: StoredRun, read: Read
) -> list[Image8]:
    """Return the prediction of the network that never saw the sample, and the label's loss there.

    Nothing for a run without noise learning, and for a sample that the screen rejected. A sample
    that the filter of pixels left without a class has a prediction too.
    """
    if not stored.settings.get("select", {}).get("folds"):
        return []
    missing = [blank(traced.size)] * 2 if sample["reason"] in ("", "rank") else []
    path = shard_path(stored.run, "hold-out", sample["shard"])
    if not store.exists(f"{path}.json"):  # not run, which is no damage
        return missing
    predicted, loss = (read(path, field, sample["id"]) for field in ("predicted", "loss"))
    if predicted is None or loss is None:
        return missing
    return [
        overlay(traced.shown, enlarge(predicted, traced.size[0]), palette_of(stored)),
        attention_heat(loss.astype(np.float32), traced.size),
    ]
