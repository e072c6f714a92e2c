"""Plan: which images a run will make, row by row, before anything expensive starts.

One row is one sample: `row` int64 (0..n-1), `id` str, `kind` ("single", "multi", "negative",
"composed"), `prompt` str, `classes` list[str], `phrases` list[str] (what the prompt calls them,
adjectives included), `background` str ("" where the prompt is a caption), `seed` int64, `shard`
int64, `sources` list[int64] (composed rows: the negative row that is the ground, then one single
row an object; else empty). Composed rows come last and have shards of their own. The same settings
give the same plan on any machine; the shard size changes `shard` only. Prompts are worded as the
drawn world's own, from whatever vocabulary. Rows are made, checked and encoded a group at a time,
for there may be tens of millions; `tasks.plan.table` reads what `start_run` wrote.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.settings import Settings, check_same_run
from infra.store import Store
from infra.vocabulary import Vocabulary, has_word
from tasks.plan.captions import TokenCounter, read_captions, sort_captions, with_captions
from tasks.plan.composed import Material
from tasks.plan.prompts import PlanError, Row, choose_classes, random_numbers, word_rows
from tasks.plan.table import stored_plan
from tasks.schemas import Planned, Record

__all__ = ["PlanError", "load_tokenizer", "make_plan", "plan_groups", "resolve_budget", "start_run"]

CLIP_TOKENS = 77  # positions of Stable Diffusion's text encoder
GROUP_ROWS = (
    1 << 14
)  # about, in a group of the table: what a shard's task reads of ten million rows


def make_plan(
    settings: Settings,
    vocabulary: Vocabulary,
    *,
    count_tokens: TokenCounter | None = None,
    max_tokens: int = CLIP_TOKENS,
) -> pd.DataFrame:
    """The plan table of these settings, whole; arguments and errors are those of `plan_groups`."""
    groups = list(
        plan_groups(settings, vocabulary, count_tokens=count_tokens, max_tokens=max_tokens)
    )
    return pd.concat(groups or [_table([], settings, 0, 0)], ignore_index=True)


def plan_groups(
    settings: Settings,
    vocabulary: Vocabulary,
    *,
    count_tokens: TokenCounter | None = None,
    max_tokens: int = CLIP_TOKENS,
) -> Iterator[pd.DataFrame]:
    """The plan of these settings in groups of whole shards, generated ones and then composed ones.

    `count_tokens` gives the length of each prompt with its begin and end tokens; prompts over
    `max_tokens` raise `PlanError`, as do an unknown class in the budget and a class word that its
    prompt lacks.
    """
    rng = np.random.default_rng(settings.seed)
    weights = _weights(settings.plan.budget, vocabulary)
    chosen = choose_classes(rng, settings.plan, weights, vocabulary)
    material = Material(chosen, vocabulary)
    material.check(settings.compose.images)
    rows = word_rows(vocabulary, random_numbers(rng, chosen))
    if settings.plan.captions:
        captions = sort_captions(
            read_captions(settings.plan.captions), vocabulary, count_tokens, max_tokens
        )
        captioned = np.random.default_rng(
            [settings.seed, 1]
        )  # its own, so that the other rows stay as they were
        rows = with_captions(rows, captions, settings.plan.captioned, captioned)
    lengths = Lengths(count_tokens, max_tokens) if count_tokens else None
    shards = -(-len(chosen) // settings.plan.shard_size)
    for first, group in _grouped(material.watching(rows), settings):
        _check_phrases(group, first)
        if lengths:
            lengths.check({row.prompt for row in group})
        yield _table(group, settings, first, first // settings.plan.shard_size)
    for first, group in _grouped(material.scenes(rng, settings.compose.images), settings):
        _check_phrases(group, len(chosen) + first)
        yield _table(
            group, settings, len(chosen) + first, shards + first // settings.plan.shard_size
        )


def _grouped(rows: Iterator[Row], settings: Settings) -> Iterator[tuple[int, list[Row]]]:
    """The rows in groups of whole shards, each with the number of rows before it."""
    size, first = max(1, GROUP_ROWS // settings.plan.shard_size) * settings.plan.shard_size, 0
    while group := list(islice(rows, size)):
        yield first, group
        first += len(group)


def _table(rows: list[Row], settings: Settings, first: int, shard: int) -> pd.DataFrame:
    """Rows of the plan, numbered from `first` on, in shards from `shard` on."""
    numbers = range(first, first + len(rows))
    table = pd.DataFrame(rows, columns=Row._fields)
    table.insert(0, "row", np.array(numbers, np.int64))
    table.insert(1, "id", [f"{row:08d}" for row in numbers])
    table["seed"] = np.array([_seed(settings.seed, row) for row in numbers], np.int64)
    table["shard"] = shard + np.arange(len(rows), dtype=np.int64) // settings.plan.shard_size
    return table


def _weights(budget: dict[str, float] | None, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Weight of each class; one that the budget does not name has 1."""
    vocabulary.choose(
        list(budget) if budget else None, field="plan.budget"
    )  # raises for an unknown class
    weights = np.array([(budget or {}).get(name, 1.0) for name in vocabulary.names])
    if not weights.any():
        raise PlanError("plan.budget gives every class weight 0; give one of them more")
    return weights


def _seed(run_seed: int, row: int) -> int:
    """63 bits that no other row of the run shares, whatever else the plan holds."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{row}".encode()).digest()[:8], "big") >> 1


def _check_phrases(rows: list[Row], first: int) -> None:
    for number, row in enumerate(rows, first):
        for phrase in row.phrases:
            if not has_word(row.prompt, phrase):
                raise PlanError(
                    f"row {number:08d}: {phrase!r} is not in its prompt {row.prompt!r}; mend the vocabulary"
                )


class Lengths:
    """Which prompts are too long for a tokenizer, found out by their words, since prompts are
    millions.

    CLIP's splits at spaces before anything else, so a prompt takes no more tokens than its words
    do.
    """

    def __init__(self, count_tokens: TokenCounter, max_tokens: int) -> None:
        self._count, self._most = count_tokens, max_tokens
        (self._ends,) = count_tokens([""])
        self._words: dict[str, int] = {}

    def check(self, prompts: Collection[str]) -> None:
        """Raise `PlanError` with the longest of these prompts if that is too long."""
        split = {prompt: prompt.split() for prompt in prompts}
        new = sorted({word for words in split.values() for word in words} - self._words.keys())
        self._words |= zip(new, self._count(new) if new else [], strict=True)
        inner = self._most - self._ends
        doubtful = [
            p
            for p, words in split.items()
            if sum(self._words[w] - self._ends for w in words) > inner
        ]
        longest, prompt = (
            max(zip(self._count(doubtful), doubtful, strict=True)) if doubtful else (0, "")
        )
        if longest > self._most:
            raise PlanError(
                f"prompt {prompt!r} takes {longest} tokens, the generator's tokenizer {self._most}; shorten the "
                f"vocabulary's templates and phrases"
            )


def start_run(
    store: Store,
    settings: Settings,
    *,
    count_tokens: TokenCounter | None = None,
    max_tokens: int = CLIP_TOKENS,
) -> Settings:
    """Write `runs/<name>/settings.json` and `plan.parquet`, or find them; return the settings with
    a budget.

    A stored run goes on with its own budget and plan, whatever champion or shard size there is now.
    Raises `SettingsError` if the run was started with other settings, and what `make_plan` raises,
    before writing anything.
    """
    record, table = (f"runs/{settings.name}/{file}" for file in ("settings.json", "plan.parquet"))
    stored = store.read_json(record, Record) if store.exists(record) else None
    settings = resolve_budget(store, settings, stored)
    if stored:
        check_same_run(stored, settings)
        if store.exists(table):
            return settings
    groups = plan_groups(
        settings, settings.load_vocabulary(), count_tokens=count_tokens, max_tokens=max_tokens
    )
    plan = stored_plan(groups)
    if not stored:
        store.write_json(record, settings.record())
    check_same_run(
        store.read_json(record, Record), settings
    )  # another run of this name may have started meanwhile
    store.write_bytes(table, plan)
    return settings


def resolve_budget(
    store: Store, settings: Settings, record: dict[str, Any] | None = None
) -> Settings:
    """Settings with their own budget; else that of the run's stored `record`; else what the
    champion's evaluation left.

    Without any, all weights are equal.
    """
    if settings.plan.budget is not None:
        return settings
    budget = record["settings"]["plan"]["budget"] if record else _champion_budget(store, settings)
    return settings.model_copy(update={"plan": settings.plan.model_copy(update={"budget": budget})})


def _champion_budget(store: Store, settings: Settings) -> dict[str, float] | None:
    """The champion's weights for this run's classes, scaled to a mean of 1, which is what a class
    new to it has.
    """
    champion = store.read_json("champion.json", Planned) if store.exists("champion.json") else {}
    names = settings.load_vocabulary().names
    budget = {name: weight for name, weight in champion.get("budget", {}).items() if name in names}
    mean = math.fsum(budget.values()) / max(len(budget), 1)
    return {name: round(weight / mean, 6) for name, weight in budget.items()} if mean else None


def load_tokenizer(path: str) -> tuple[TokenCounter, int]:
    """Counter of tokens for the generator at `path`, and how many of them its text encoder takes."""
    from transformers import CLIPTokenizer

    from models.generators import pipeline_folder  # torch, diffusers and transformers: seconds

    folder = pipeline_folder(path) / "tokenizer"
    if not folder.is_dir():
        raise PlanError(
            f"{folder} is missing; generator.path needs a whole diffusers pipeline directory, or 'embedded'"
        )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        if not isinstance(tokenizer.model_max_length, int):
            raise TypeError(f"model_max_length is {tokenizer.model_max_length!r}")
    except Exception as error:  # two libraries, with errors of every kind
        raise PlanError(
            f"{folder} cannot be opened ({error}); copy the whole pipeline directory again"
        ) from error
    return lambda prompts: [
        len(ids) for ids in tokenizer(prompts)["input_ids"]
    ], tokenizer.model_max_length
