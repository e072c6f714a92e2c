"""The dry run: what a plan holds and what it will cost, before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from infra.settings import Settings, check_same_run
from infra.store import Store
from segmint import console as show
from tasks.plan.budget import FIELDS
from tasks.plan.captions import read_captions, sort_captions
from tasks.plan.cost import Cost, estimate, measured_rate
from tasks.plan.resolve import resolve
from tasks.plan.rows import plan_groups, stored_record
from tasks.plan.tokens import TokenCounter, load_tokenizer
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
    check_sets(settings)
    check_segmenter(settings)
    check_sources(store, settings)
    count_tokens, max_tokens = load_tokenizer(settings.generator.path)
    settings = resolve(store, settings)
    stored = stored_record(store, settings.name)
    if stored:
        check_same_run(stored, settings)
    counts = _counted(settings, examples, count_tokens, max_tokens)
    state = _state(settings, started=stored is not None)
    cost = _cost(store, settings, counts)
    captions = _captions(settings, count_tokens, max_tokens) if settings.plan.captions else {}
    if json:
        found = {"run": settings.name, "identity": settings.identity, "state": state}
        estimated = asdict(cost) if cost else None
        show.as_json(found | vars(counts) | {"captions": captions, "cost": estimated})
        return
    _tables(settings, counts, captions)
    show.say(f"run {settings.name!r}, identity {settings.identity[:8]}: {state}")
    show.say(f"{counts.kinds.total()} images in {counts.shards} shards; {_in_words(cost)}")


def _counted(
    settings: Settings, examples: int, count_tokens: TokenCounter, max_tokens: int
) -> _Counts:
    vocabulary = settings.load_vocabulary()
    weights = {name: getattr(settings.plan, name) for name in FIELDS}
    counts = _Counts(weights={name: found for name, found in weights.items() if found})
    groups = plan_groups(settings, vocabulary, count_tokens=count_tokens, max_tokens=max_tokens)
    for group in groups:
        shown = group.head(examples - len(counts.first))[["id", "kind", "prompt"]]
        counts.first += shown.to_dict("records")
        counts.kinds.update(group["kind"])
        counts.classes.update(name for names in group["classes"] for name in names)
        counts.shards += group["shard"].nunique()
    counts.classes = Counter({name: counts.classes[name] for name in vocabulary.names})
    return counts


def _state(settings: Settings, started: bool) -> str:
    if is_published(settings):
        return f"already published: {version_of(settings)}"
    return "started; `segmint run` continues it" if started else "new"


def _captions(settings: Settings, count_tokens: TokenCounter, max_tokens: int) -> dict[str, int]:
    """Return how many captions each class keeps, and how many are rejected for each reason."""
    lines = read_captions(settings.plan.captions or "")
    found = sort_captions(lines, settings.load_vocabulary(), count_tokens, max_tokens)
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
    columns = ["id", "kind", "prompt"]
    show.table("First rows", columns, [[row[name] for name in columns] for row in counts.first])
