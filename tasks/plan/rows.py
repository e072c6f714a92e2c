"""Plan: which images a run will make, row by row, before anything expensive starts.

One row is one sample. Its columns:

    row         int64, 0 to n-1
    id          str
    kind        "single", "multi", "negative" or "composed"
    prompt      str
    classes     list[str]
    phrases     list[str], the prompt's words for the classes, adjectives included
    background  str, "" where the prompt is a caption
    seed        int64
    shard       int64
    sources     list[int64]; for composed rows the negative row of the background, then one single
                row per object; else empty

Composed rows come last and have shards of their own. The same settings give the same plan on any
machine; the shard size changes `shard` only. Prompts are worded as those of the drawn world, with
any vocabulary. Rows are made, checked and encoded one group at a time, since there may be tens of
millions. `tasks.plan.table` reads what `start_run` wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.settings import Settings, check_same_run
from infra.store import Store
from infra.vocabulary import Vocabulary, has_word
from tasks.plan.budget import resolve_budget
from tasks.plan.captions import read_captions, sort_captions, with_captions
from tasks.plan.composed import Material
from tasks.plan.drawn import DrawnRows
from tasks.plan.lots import Lots
from tasks.plan.prompts import (
    Ints,
    PlanError,
    Row,
    choose_classes,
    random_numbers,
    row_seed,
    word_rows,
)
from tasks.plan.table import plan_path, stored_plan
from tasks.plan.tokens import CLIP_TOKENS, PromptLengths, TokenCounter
from tasks.schemas import Record

if TYPE_CHECKING:  # it loads torch, which a plan of prompts does without
    from tasks.maps.layouts import Layouts

__all__ = ["Inputs", "PlanError", "make_plan", "plan_groups", "start_run", "stored_record"]

GROUP_ROWS = 1 << 14  # approximate rows per group of the table; a shard's task reads one group


class Inputs(TypedDict, total=False):
    """What the generator takes: prompts of so many tokens, or label maps (`plan_groups`)."""

    count_tokens: TokenCounter
    max_tokens: int
    layouts: Layouts


def make_plan(settings: Settings, vocabulary: Vocabulary, **inputs: Unpack[Inputs]) -> pd.DataFrame:
    """The whole plan table of these settings; arguments and errors are those of `plan_groups`."""
    groups = plan_groups(settings, vocabulary, **inputs)
    return pd.concat([*groups] or [_table([], settings, 0, 0)], ignore_index=True)


def plan_groups(
    settings: Settings,
    vocabulary: Vocabulary,
    *,
    count_tokens: TokenCounter | None = None,
    max_tokens: int = CLIP_TOKENS,
    layouts: Layouts | None = None,
) -> Iterator[pd.DataFrame]:
    """The plan of these settings in groups of whole shards, first generated, then composed ones.

    `count_tokens` returns the length of each prompt with its begin and end tokens. With `layouts`
    the images are of label maps, with the errors of `DrawnRows`. Raises `PlanError` for a prompt
    over `max_tokens` and for a phrase that is missing in its prompt, and `VocabularyError` for the
    weight of a class or word that the vocabulary lacks.
    """
    rng = np.random.default_rng(settings.seed)
    if layouts is None:
        weights = _weights(settings.plan.budget, vocabulary)
        chosen = choose_classes(rng, settings.plan, weights, vocabulary)
        rows = _worded(settings, vocabulary, rng, chosen, count_tokens, max_tokens)
    else:
        drawn = DrawnRows(layouts, settings.plan, settings.seed)
        chosen = drawn.chosen(vocabulary.names)
        rows = iter(drawn)
    material = Material(chosen, vocabulary)
    material.check(settings.compose.images)
    lengths = PromptLengths(count_tokens, max_tokens) if count_tokens else None
    size = settings.plan.shard_size
    for first, group in _grouped(material.collect(rows), settings):
        _check_phrases(group, first)
        if lengths:
            lengths.check({row.prompt for row in group})
        yield _table(group, settings, first, first // size)
    generated = len(chosen)
    scenes = material.scenes(rng, settings.compose.images)
    if layouts:
        scenes = (scene._replace(prompt="", phrases=[]) for scene in scenes)
    for first, group in _grouped(scenes, settings):
        _check_phrases(group, generated + first)
        yield _table(group, settings, generated + first, -(-generated // size) + first // size)


def _worded(
    settings: Settings,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    chosen: Ints,
    count_tokens: TokenCounter | None,
    max_tokens: int,
) -> Iterator[Row]:
    """Rows with a prompt for the chosen classes, some of them captions."""
    rows = word_rows(vocabulary, random_numbers(rng, chosen), Lots(vocabulary, settings.plan))
    if not settings.plan.captions:
        return rows
    lines = read_captions(settings.plan.captions)
    captions = sort_captions(lines, vocabulary, count_tokens, max_tokens)
    # a generator of its own, so that rows without captions do not change
    captioned = np.random.default_rng([settings.seed, 1])
    return with_captions(rows, captions, settings.plan.captioned, captioned)


def _grouped(rows: Iterator[Row], settings: Settings) -> Iterator[tuple[int, list[Row]]]:
    """The rows in groups of whole shards, each with the number of rows before it."""
    size = max(1, GROUP_ROWS // settings.plan.shard_size) * settings.plan.shard_size
    first = 0
    while group := list(islice(rows, size)):
        yield first, group
        first += len(group)


def _table(rows: list[Row], settings: Settings, first: int, shard: int) -> pd.DataFrame:
    """Rows of the plan, numbered from `first` on, in shards from `shard` on."""
    numbers = range(first, first + len(rows))
    table = pd.DataFrame(rows, columns=Row._fields)
    table.insert(0, "row", np.array(numbers, np.int64))
    table.insert(1, "id", [f"{row:08d}" for row in numbers])
    table["seed"] = np.array([row_seed(settings.seed, row) for row in numbers], np.int64)
    table["shard"] = shard + np.arange(len(rows), dtype=np.int64) // settings.plan.shard_size
    return table


def _weights(budget: dict[str, float] | None, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Weight of each class, 1 for a class that the budget does not name.

    Raises `VocabularyError` for an unknown class.
    """
    vocabulary.choose(list(budget) if budget else None, field="plan.budget")
    weights = np.array([(budget or {}).get(name, 1.0) for name in vocabulary.names])
    if not weights.any():
        raise PlanError("plan.budget gives every class weight 0; give at least one class more")
    return weights


def _check_phrases(rows: list[Row], first: int) -> None:
    for number, row in enumerate(rows, first):
        for phrase in row.phrases:
            if not has_word(row.prompt, phrase):
                raise PlanError(
                    f"row {number:08d}: {phrase!r} is not in its prompt {row.prompt!r}; "
                    f"correct the vocabulary"
                )


def start_run(store: Store, settings: Settings, **inputs: Unpack[Inputs]) -> Settings:
    """Write `runs/<name>/settings.json` and `plan.parquet` unless stored; return the settings.

    `inputs` are those of `plan_groups`. The returned settings have weights. A stored run keeps its
    own weights and plan, even if the champion or the shard size has changed since. Raises
    `SettingsError` if the run was started with other settings, and the errors of `make_plan`,
    before anything is written.
    """
    record = _record_path(settings.name)
    table = plan_path(settings.name)
    stored = stored_record(store, settings.name)
    settings = resolve_budget(store, settings, stored)
    if stored:
        check_same_run(stored, settings)
        if store.exists(table):
            return settings
    vocabulary = settings.load_vocabulary()
    plan = stored_plan(plan_groups(settings, vocabulary, **inputs))
    if not stored:
        store.write_json(record, settings.record())
    # another run of this name may have started meanwhile
    check_same_run(store.read_json(record, Record), settings)
    store.write_bytes(table, plan)
    return settings


def stored_record(store: Store, run: str) -> dict[str, Any] | None:
    """Return settings.json of a run, or None if the run has not started."""
    path = _record_path(run)
    return store.read_json(path, Record) if store.exists(path) else None


def _record_path(run: str) -> str:
    return f"runs/{run}/settings.json"
