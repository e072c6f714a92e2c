"""Examples of a run: a few samples, drawn without regard to how well they came out, as strips of
pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.store import CorruptShardError, MissingError, ShardReader, Store, StoreError
from models.masks import (
    AffinityNet,
    SeedRule,
    grow_by_colour,
    object_scores,
    split_by_colour,
    walk_attention,
)
from tasks.refine.affinity import read_affinity, seed_labels
from tasks.report.pictures import (
    ARTIFACT_BYTES,
    Cell,
    Colour,
    Palette,
    Picture,
    attention_heat,
    blank,
    contact_sheet,
    curve_tile,
    enlarge,
    overlay,
)
from tasks.report.stored_run import Ledger

__all__ = ["TILE", "choose", "draw_cells", "draw_steps", "label_sheet", "sample_sheet"]

TILE = 256  # height of a picture on the page, pixels: sharp on a dense screen
_STEP_TILE = 160  # of a picture of one step, of which there are many side by side
_SHEET_TILE = 128  # and on an artifact's sheet
_ON_SHEET = 9  # samples kept, and as many rejected, of an artifact's sheet
_OVERLAYS = 6  # samples of a sheet of labels
Read = Callable[[Any, str, str], NDArray[Any] | None]


def choose(samples: pd.DataFrame, by: str, count: int) -> pd.DataFrame:
    """Up to `count` samples, one of each value of column `by` in turn, otherwise by seed.

    Seeds are hashes, so their order has nothing to do with what a sample looks like.
    """
    ordered = samples.sort_values("seed")
    turn = ordered.groupby(by, dropna=False).cumcount()
    return ordered.assign(turn=turn).sort_values(["turn", "seed"]).head(count).drop(columns="turn")


def draw_cells(
    store: Store,
    ledger: Ledger,
    samples: pd.DataFrame,
    height: int = TILE,
    unreadable: set[str] | None = None,
) -> Iterator[Cell]:
    """A cell for each sample: image, label overlay, attention of what is named; for a composed one
    image and overlay.

    What was not made, or is damaged, is hatched; shards that are damaged are added to `unreadable`.
    """
    read = _reader(store, set() if unreadable is None else unreadable)
    for sample in samples.to_dict("records"):
        keep = sample["keep"] if isinstance(sample["keep"], bool) else None
        caption = (
            f"{sample['reason']}: {sample['prompt']}" if keep is False else str(sample["prompt"])
        )
        yield Cell(_tiles(sample, ledger, read, height), caption, keep)


def _reader(store: Store, unreadable: set[str]) -> Read:
    """How to get a field of a sample from a shard;

    None if it isn't there or its bytes are wrong. Shards stay open.
    """
    opened = cache(lambda path: ShardReader(store, path))

    def read(path: Any, field: str, sample_id: str) -> NDArray[Any] | None:
        try:
            reader = opened(path) if isinstance(path, str) else None
            return (
                reader.read(field, reader.ids.index(sample_id))
                if reader and field in reader.fields
                else None
            )
        except (CorruptShardError, MissingError):
            unreadable.add(path)
            return None

    return read


def _tiles(
    sample: Mapping[str, Any], ledger: Ledger, read: Read, height: int
) -> list[NDArray[np.uint8]]:
    image = read(sample["image_at"], "image", sample["id"])
    if image is None:
        return [blank((height, height))] * (2 if sample["kind"] == "composed" else 3)
    shown = enlarge(image, height)
    tiles = [shown, _labelled(shown, sample, ledger, read)]
    return (
        tiles if sample["kind"] == "composed" else [*tiles, _attention(shown, sample, ledger, read)]
    )


def _labelled(
    shown: NDArray[np.uint8], sample: Mapping[str, Any], ledger: Ledger, read: Read
) -> NDArray[np.uint8]:
    label, instance = (
        read(sample["label_at"], field, sample["id"]) for field in ("label", "instance")
    )
    if label is None:
        return blank(shown.shape[:2])
    return overlay(
        shown,
        enlarge(label, shown.shape[0]),
        _palette(ledger),
        None if instance is None else enlarge(instance, shown.shape[0]),
    )


def _palette(ledger: Ledger) -> Palette:
    return {ledger.ids[name]: colour for name, colour in ledger.colours.items()}


def _attention(
    shown: NDArray[np.uint8], sample: Mapping[str, Any], ledger: Ledger, read: Read
) -> NDArray[np.uint8]:
    """Heat of the only class word (the ground's, if there is none), or the lights of several in
    their colours.
    """
    maps = read(sample["image_at"], "cross", sample["id"])
    if maps is None:
        return blank(shown.shape[:2])
    colours = [ledger.colours[name] for name in sample["classes"]]
    return attention_heat(maps[: max(1, len(colours))], shown.shape[:2], colours)


def draw_steps(
    store: Store, ledger: Ledger, samples: pd.DataFrame, unreadable: set[str] | None = None
) -> Iterator[tuple[dict[str, Any], Cell]]:
    """Each generated sample that names classes, with the steps from its attention to its label.

    Image · attention of the words · the same spread along self-attention · the object by it · with
    parts by colour · split by colour · label. By DiffuMask's method, between spread maps and label:
    the sure seeds · attention after the walk · each threshold's agreement with it. After noise
    learning, the prediction of a network that never saw the sample, and its loss. What was not made
    is left out.
    """
    read = _reader(store, set() if unreadable is None else unreadable)
    make = _by_colour
    if ledger.settings.get("refine", {}).get("method") == "diffumask":
        make = partial(_by_walk, _affinity(store, ledger.run), ledger.rules)
    for sample in samples.to_dict("records"):
        fields = [
            read(sample["image_at"], field, sample["id"])
            for field in ("image", "cross", "attention")
        ]
        if len(sample["classes"]) and all(field is not None for field in fields):
            count, colours = (
                len(sample["classes"]),
                [ledger.colours[name] for name in sample["classes"]],
            )
            image, cross, spread = (torch.from_numpy(field)[None] for field in cast(Any, fields))
            words, maps = cross[:, :count].float(), spread[:, :count].float()
            shown = enlarge(image[0].numpy(), _STEP_TILE)
            heats = [
                attention_heat(each[0].numpy(), shown.shape[:2], colours) for each in (words, maps)
            ]
            last = [_labelled(shown, sample, ledger, read), *_held_out(shown, sample, ledger, read)]
            steps = make(sample, shown, colours, image, words, maps)
            yield sample, Cell([shown, *heats, *steps, *last], str(sample["prompt"]))


def _affinity(store: Store, run: str) -> AffinityNet | None:
    """The network that a run's attention walked by; None if it isn't there, or damaged."""
    try:
        return read_affinity(store, run)
    except StoreError:
        return None


def _by_colour(
    _: Mapping[str, Any],
    shown: Picture,
    colours: Sequence[Colour],
    image: Tensor,
    words: Tensor,
    maps: Tensor,
) -> list[Picture]:
    """The object by its attention (1, C, r, r), with parts of its colour, split by colour."""
    found = 1 - object_scores(maps, (image.shape[1], image.shape[2]), words)[:, 0]
    grown = grow_by_colour(image, found)
    steps = (found, grown, split_by_colour(image, grown))
    return [attention_heat(each[0].numpy(), shown.shape[:2]) for each in steps]


def _by_walk(
    net: AffinityNet | None,
    rules: Mapping[str, SeedRule],
    sample: Mapping[str, Any],
    shown: Picture,
    colours: Sequence[Colour],
    image: Tensor,
    words: Tensor,
    maps: Tensor,
) -> list[Picture]:
    """Seeds of the attention (1, C, r, r), the same after its walk, and how well each threshold
    fits that.
    """
    if net is None:
        return [blank(shown.shape[:2])] * 3
    seeds = seed_labels(
        image[0], maps[0], words[0], [rules[name] for name in sample["classes"]]
    ).numpy()
    walked = walk_attention(image, maps, net, words)
    return [
        overlay(shown, enlarge(seeds, shown.shape[0]), dict(enumerate(colours, 1))),
        attention_heat(walked.scores[0, 1:].numpy(), shown.shape[:2], colours),
        curve_tile([each.agreement[0].numpy() for each in walked.fitted], shown.shape[:2], colours),
    ]


def _held_out(
    shown: Picture, sample: Mapping[str, Any], ledger: Ledger, read: Read
) -> list[Picture]:
    """What a network that never saw the sample predicts, and where it disagrees with the label;
    none if not asked.
    """
    if sample["reason"] not in ("", "rank") or not ledger.settings.get("select", {}).get("folds"):
        return []
    path, size = f"runs/{ledger.run}/hold-out/{sample['shard']:05d}", shown.shape[:2]
    predicted, loss = (read(path, field, sample["id"]) for field in ("predicted", "loss"))
    if predicted is None or loss is None:
        return [blank(size)] * 2
    return [
        overlay(shown, enlarge(predicted, size[0]), _palette(ledger)),
        attention_heat(loss.astype(np.float32), size),
    ]


def sample_sheet(store: Store, ledger: Ledger, limit: int = ARTIFACT_BYTES) -> bytes | None:
    """Contact sheet of some kept and as many rejected samples, WebP of at most `limit` bytes;

    None without images.
    """
    made = ledger.census.picked
    rejected = choose(made[made["keep"] == False], "reason", _ON_SHEET)  # noqa: E712 - None is neither
    chosen = pd.concat([choose(made[made["keep"] != False], "first", _ON_SHEET), rejected])  # noqa: E712
    return (
        contact_sheet(list(draw_cells(store, ledger, chosen, _SHEET_TILE)), limit=limit)
        if len(chosen)
        else None
    )


def label_sheet(store: Store, ledger: Ledger, limit: int = ARTIFACT_BYTES) -> bytes | None:
    """Sheet of kept samples, each image beside its label overlay, large;

    None if nothing is kept or made.
    """
    kept = ledger.census.picked[ledger.census.picked["keep"].eq(True)]
    cells = draw_cells(store, ledger, choose(kept, "first", _OVERLAYS))
    pairs = [Cell(cell.tiles[:2], cell.caption) for cell in cells]
    return contact_sheet(pairs, columns=2, limit=limit) if pairs else None
