"""The dry run: what a plan holds and what it will cost, before anything is started."""

from __future__ import annotations

from collections import Counter
from typing import Any

from infra.settings import Settings, check_same_run
from infra.store import Store
from segmint import console as show
from tasks.plan.captions import TokenCounter, read_captions, sort_captions
from tasks.plan.cost import estimate, measured_rate
from tasks.plan.rows import load_tokenizer, plan_groups, resolve_budget
from tasks.schemas import Record

__all__ = ["preview"]


def preview(store: Store, settings: Settings, examples: int) -> None:
    """Print counts, example prompts and cost of the plan of these settings; raise what starting the
    run would raise.
    """
    record = f"runs/{settings.name}/settings.json"
    stored = store.read_json(record, Record) if store.exists(record) else None
    settings = resolve_budget(store, settings, stored)
    if stored:
        check_same_run(stored, settings)
    count_tokens, max_tokens = load_tokenizer(settings.generator.path)
    plan = plan_groups(
        settings, settings.load_vocabulary(), count_tokens=count_tokens, max_tokens=max_tokens
    )
    shown, kinds, classes, shards = list[Any](), Counter[str](), Counter[str](), 0
    for group in plan:
        shown += group.head(examples - len(shown))[["id", "kind", "prompt"]].itertuples(index=False)
        kinds.update(group["kind"])
        classes.update(name for names in group["classes"] for name in names)
        shards += group["shard"].nunique()
    show.table(f"Plan of run {settings.name!r}", ["kind", "images"], kinds.most_common())
    names = settings.load_vocabulary().names
    show.table(
        "Images that name a class", ["class", "images"], [(name, classes[name]) for name in names]
    )
    if settings.plan.captions:
        _captions(settings, count_tokens, max_tokens)
    show.table("Its first rows", ["id", "kind", "prompt"], shown)
    show.say(
        f"run {settings.name!r}, identity {settings.identity[:8]}: {'goes on' if stored else 'new'}"
    )
    show.say(
        f"{kinds.total()} images in {shards} shards; {_cost(store, settings, kinds.total(), shards)}"
    )


def _captions(settings: Settings, count_tokens: TokenCounter, max_tokens: int) -> None:
    captions = sort_captions(
        read_captions(settings.plan.captions or ""),
        settings.load_vocabulary(),
        count_tokens,
        max_tokens,
    )
    kept = [(f"prompts of {name}", len(prompts)) for name, prompts in captions.prompts.items()]
    show.table(
        f"Captions of {settings.plan.captions}", ["", "lines"], [*kept, *captions.rejected.items()]
    )


def _cost(store: Store, settings: Settings, rows: int, shards: int) -> str:
    rate = measured_rate(store, settings)
    if rate is None:
        return "the cost is not known: no shard in this store was made with this generator; a run of a few images tells"
    cost = estimate(
        rows, shards, settings.plan.shard_size, rate.seconds, rate.bytes, settings.compute.workers
    )
    return f"about {show.duration(cost.seconds)} and {show.size(cost.bytes)}, as in run {rate.measured_on!r}"
