"""The dry run: what a plan holds and what it will cost, before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from infra.settings import Settings, check_drawn, check_same_run
from infra.store import Store
from segmint import console as show
from tasks.plan.budget import FIELDS
from tasks.plan.captions import read_captions, sort_captions
from tasks.plan.cost import Cost, estimate, measured_rate
from tasks.plan.prepare import plan_inputs
from tasks.plan.resolve import resolve
from tasks.plan.rows import Inputs, plan_groups, stored_record
from tasks.publish.samples import version_of
from tasks.publish.version import is_published
from tasks.train.check import check_segmenter, check_sources
from tasks.train.protocols import check_sets

__all__ = ["preview"]


@dataclass
class _Counts:
    """What a plan holds: images by kind, images by class, weights, shards, and the first rows."""

    kinds: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    weights: dict[str, Any] = field(default_factory=dict)
    shards: int = 0
    first: list[dict[str, str]] = field(default_factory=list)


def preview(store: Store, settings: Settings, examples: int, json: bool) -> None:
    """Print counts, example prompts and cost of the plan of these settings.

    Raises whatever would stop the run before its first shard.
    """
    check_drawn(settings)
    check_sets(settings)
    check_segmenter(settings)
    check_sources(store, settings)
    inputs = plan_inputs(store, settings)
    settings = resolve(store, settings)
    stored = stored_record(store, settings.name)
    if stored:
        check_same_run(stored, settings)
    counts = _counted(settings, examples, inputs)
    state = _state(settings, started=stored is not None)
    cost = _cost(store, settings, counts)
    captions = _captions(settings, inputs) if settings.plan.captions else {}
    if json:
        found: dict[str, Any] = {
            "run": settings.name,
            "identity": settings.identity,
            "state": state,
            "label_maps": _label_maps(settings, inputs),
        }
        estimated = asdict(cost) if cost else None
        show.as_json(found | vars(counts) | {"captions": captions, "cost": estimated})
        return
    _tables(settings, counts, captions)
    show.say(f"run {settings.name!r}, identity {settings.identity[:8]}: {state}")
    show.say(f"{counts.kinds.total()} images in {counts.shards} shards; {_in_words(cost)}")
    if maps := _label_maps(settings, inputs):
        size = f"{maps['height']}x{maps['width']} pixels"
        show.say(
            f"checkpoint {maps['checkpoint']} draws the {maps['maps']} label maps of "
            f"{maps['labels']}, {maps['layouts']}, at {size}"
        )


def _label_maps(settings: Settings, inputs: Inputs) -> dict[str, Any] | None:
    """Return what the images are drawn from; None for images of prompts."""
    if "layouts" not in inputs:
        return None
    height, width = inputs["layouts"].size
    return {
        "checkpoint": settings.generator.flow,
        "labels": settings.generator.labels,
        "layouts": settings.generator.layouts,
        "maps": len(inputs["layouts"]),
        "height": height,
        "width": width,
    }


def _counted(settings: Settings, examples: int, inputs: Inputs) -> _Counts:
    vocabulary = settings.load_vocabulary()
    weights = {name: getattr(settings.plan, name) for name in FIELDS}
    counts = _Counts(weights={name: found for name, found in weights.items() if found})
    groups = plan_groups(settings, vocabulary, **inputs)
    for group in groups:
        counts.first += _examples(group.head(examples - len(counts.first)), inputs)
        counts.kinds.update(group["kind"])
        counts.classes.update(name for names in group["classes"] for name in names)
        counts.shards += group["shard"].nunique()
    counts.classes = Counter({name: counts.classes[name] for name in vocabulary.names})
    return counts


def _examples(rows: pd.DataFrame, inputs: Inputs) -> list[dict[str, str]]:
    """Return id and kind of some rows, and their prompt or what they are drawn from."""
    shown = rows[["id", "kind", "prompt"]]
    if "layouts" in inputs:
        name = inputs["layouts"].source.name
        maps = [
            "other rows" if row.kind == "composed" else ", ".join(map(name, row.sources))
            for row in rows.itertuples()
        ]
        shown = rows[["id", "kind"]].assign(drawn_from=maps, classes=rows["classes"].map(", ".join))
    return [*shown.to_dict("records")]


def _state(settings: Settings, started: bool) -> str:
    if is_published(settings):
        return f"already published: {version_of(settings)}"
    return "started; `segmint run` continues it" if started else "new"


def _captions(settings: Settings, inputs: Inputs) -> dict[str, int]:
    """Return how many captions each class keeps, and how many are rejected for each reason."""
    lines = read_captions(settings.plan.captions or "")
    limits = inputs["count_tokens"], inputs["max_tokens"]
    found = sort_captions(lines, settings.load_vocabulary(), *limits)
    kept = {f"prompts of {name}": len(prompts) for name, prompts in found.prompts.items()}
    return kept | dict(found.rejected)


@dataclass(frozen=True)
class _Estimate(Cost):
    """A cost, and the run whose shards it is computed from."""

    measured_on: str


def _cost(store: Store, settings: Settings, counts: _Counts) -> _Estimate | None:
    rate = measured_rate(store, settings)
    if rate is None:
        return None
    cost = estimate(
        counts.kinds.total(),
        counts.shards,
        settings.plan.shard_size,
        rate.seconds,
        rate.bytes,
        settings.compute.workers,
    )
    return _Estimate(cost.seconds, cost.bytes, rate.measured_on)


def _in_words(cost: _Estimate | None) -> str:
    if cost is None:
        return (
            "the cost is not known, because no run in this store used this generator; "
            "a run of a few images measures it"
        )
    amounts = f"about {show.duration(cost.seconds)} and {show.size(cost.bytes)}"
    return f"{amounts}, as in run {cost.measured_on!r}"


def _weights(weights: dict[str, Any], of: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield each weight of a plan with its field and name; sub-classes after their class."""
    for name, value in weights.items():
        if isinstance(value, dict):
            yield from _weights(value, f"{of}.{name}" if of else f"plan.{name}")
        else:
            yield of, name, f"{value:.2f}"


def _tables(settings: Settings, counts: _Counts, captions: dict[str, int]) -> None:
    kinds: list[tuple[Any, ...]] = [*counts.kinds.most_common()]
    show.table(f"Plan of run {settings.name!r}", ["kind", "images"], kinds)
    classes = list(counts.classes.items())
    show.table("Images that name a class", ["class", "images"], classes)
    if captions:
        title = f"Captions of {settings.plan.captions}"
        show.table(title, ["", "lines"], list(captions.items()))
    if weights := list(_weights(counts.weights)):
        show.table("Weights, 1 for an even part", ["of", "name", "weight"], weights)
    columns = [*counts.first[0]] if counts.first else ["id", "kind", "prompt"]
    show.table("First rows", columns, [[row[name] for name in columns] for row in counts.first])
