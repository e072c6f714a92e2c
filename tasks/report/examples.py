"""Examples: a few samples of a run as images, chosen without regard to their quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.store import CorruptShardError, MissingError, ShardReader, Store
from tasks.report.images import Image8, Palette, attention_heat, blank, enlarge, overlay
from tasks.report.sheets import ARTIFACT_BYTES, Cell, contact_sheet
from tasks.report.stored_run import StoredRun

__all__ = [
    "TILE",
    "Read",
    "choose",
    "draw_cells",
    "field_reader",
    "label_sheet",
    "labelled",
    "palette_of",
    "sample_sheet",
]

TILE = 256  # height of an image on the page, pixels: sharp on a high-resolution screen
_SHEET_TILE = 128  # height on an artifact's sheet
_ON_SHEET = 9  # kept samples, and rejected ones, on an artifact's sheet
_OVERLAYS = 6  # samples on a sheet of labels
Read = Callable[[Any, str, str], NDArray[Any] | None]


def choose(samples: pd.DataFrame, by: str, count: int) -> pd.DataFrame:
    """Return up to `count` samples, in turn one of each value of column `by`, ordered by seed.

    Seeds are hashes, so their order says nothing about the samples.
    """
    ordered = samples.sort_values("seed")
    turn = ordered.groupby(by, dropna=False).cumcount()
    return ordered.assign(turn=turn).sort_values(["turn", "seed"]).head(count).drop(columns="turn")


def draw_cells(
    store: Store,
    stored: StoredRun,
    samples: pd.DataFrame,
    height: int = TILE,
    unreadable: set[str] | None = None,
) -> Iterator[Cell]:
    """Yield a cell per sample: image, label overlay and, unless composed, attention.

    An image of a label map has the mask that was read back in place of attention.

    What does not exist, or is damaged, is hatched. Paths of damaged shards are added to
    `unreadable`.
    """
    read = field_reader(store, set() if unreadable is None else unreadable)
    for sample in samples.to_dict("records"):
        keep = sample["keep"] if isinstance(sample["keep"], bool) else None
        caption = str(sample["prompt"]) or ", ".join(sample["classes"])
        if keep is False:
            caption = f"{sample['reason']}: {caption}"
        yield Cell(_tiles(sample, stored, read, height), caption, keep)


def field_reader(store: Store, unreadable: set[str]) -> Read:
    """Return a function that reads a field of a sample from a shard, which stays open.

    It returns None for what does not exist, and for damaged bytes, whose shard it adds to
    `unreadable`.
    """
    opened = cache(lambda path: ShardReader(store, path))

    def read(path: Any, field: str, sample_id: str) -> NDArray[Any] | None:
        if not isinstance(path, str):
            return None
        try:
            reader = opened(path)
            if field not in reader.fields or sample_id not in reader.ids:
                return None
            return reader.read(field, reader.ids.index(sample_id))
        except (CorruptShardError, MissingError):
            unreadable.add(path)
            return None

    return read


def _tiles(
    sample: Mapping[str, Any], stored: StoredRun, read: Read, height: int
) -> list[NDArray[np.uint8]]:
    composed = sample["kind"] == "composed"
    image = read(sample["image_at"], "image", sample["id"])
    if image is None:
        return [blank((height, height))] * (2 if composed else 3)
    shown = enlarge(image, height)
    tiles = [shown, labelled(shown, sample, stored, read)]
    return tiles if composed else [*tiles, _found_in(shown, sample, stored, read)]


def _found_in(shown: Image8, sample: Mapping[str, Any], stored: StoredRun, read: Read) -> Image8:
    """Return what the generator found in its image: its attention, or the mask it read back."""
    found = read(sample["image_at"], "read", sample["id"])
    if found is None:
        return _attention(shown, sample, stored, read)
    return overlay(shown, enlarge(found, shown.shape[0]), palette_of(stored))


def labelled(shown: Image8, sample: Mapping[str, Any], stored: StoredRun, read: Read) -> Image8:
    """Return a sample's image `shown` under its label; hatched without a label."""
    label = read(sample["label_at"], "label", sample["id"])
    instance = read(sample["label_at"], "instance", sample["id"])
    if label is None:
        return blank(shown.shape[:2])
    edges = None if instance is None else enlarge(instance, shown.shape[0])
    return overlay(shown, enlarge(label, shown.shape[0]), palette_of(stored), edges)


def palette_of(stored: StoredRun) -> Palette:
    """Return the colour of each label id."""
    return {stored.ids[name]: colour for name, colour in stored.colours.items()}


def _attention(shown: Image8, sample: Mapping[str, Any], stored: StoredRun, read: Read) -> Image8:
    """Return the attention of a sample's class words, several in their classes' colours.

    A sample without a class shows the attention of its background.
    """
    maps = read(sample["image_at"], "cross", sample["id"])
    if maps is None:
        return blank(shown.shape[:2])
    colours = [stored.colours[name] for name in sample["classes"]]
    return attention_heat(maps[: max(1, len(colours))], shown.shape[:2], colours)


def sample_sheet(store: Store, stored: StoredRun, limit: int = ARTIFACT_BYTES) -> bytes | None:
    """Return a contact sheet of kept and rejected samples, as WebP of at most `limit` bytes.

    None without images.
    """
    made = stored.counts.picked
    rejected = made["keep"].eq(False)
    chosen = pd.concat(
        [
            choose(made[~rejected], "first", _ON_SHEET),
            choose(made[rejected], "reason", _ON_SHEET),
        ]
    )
    if not len(chosen):
        return None
    return contact_sheet(list(draw_cells(store, stored, chosen, _SHEET_TILE)), limit=limit)


def label_sheet(store: Store, stored: StoredRun, limit: int = ARTIFACT_BYTES) -> bytes | None:
    """Return a sheet of kept samples, each image beside its label overlay; None without any."""
    kept = stored.counts.picked[stored.counts.picked["keep"].eq(True)]
    cells = draw_cells(store, stored, choose(kept, "first", _OVERLAYS))
    pairs = [Cell(cell.tiles[:2], cell.caption) for cell in cells]
    return contact_sheet(pairs, columns=2, limit=limit) if pairs else None
