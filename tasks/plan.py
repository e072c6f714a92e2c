"""Plan: which images a run will make, row by row, before anything expensive starts.

One row is one sample: `row` int64 (0..n-1), `id` str, `kind` ("single", "multi", "negative", "composed"), `prompt` str,
`classes` list[str], `phrases` list[str] (what the prompt calls them, adjectives included), `background` str ("" where
the prompt is a caption), `seed` int64, `shard` int64, `sources` list[int64] (composed rows: the negative row that is
the ground, then one single row an object; else empty).
Composed rows come last and have shards of their own. The same settings give the same plan on any machine; the shard
size changes `shard` only. Prompts are worded as the drawn world's own, from whatever vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.settings import Settings, check_same_run
from infra.store import Store
from infra.vocabulary import Vocabulary, has_word
from tasks.captions import TokenCounter, read_captions, sort_captions, with_captions
from tasks.prompts import (
    Ints,
    PlanError,
    Row,
    choose_classes,
    distinct_classes,
    pick,
    random_numbers,
    word_composed,
    word_row,
)
from tasks.records import Planned, Record

__all__ = [
    "COLUMNS",
    "PlanError",
    "load_tokenizer",
    "make_plan",
    "read_plan",
    "resolve_budget",
    "start_run",
]

COLUMNS = {
    "row": "int", "id": "str", "kind": "str", "prompt": "str", "classes": "list[str]", "phrases": "list[str]",
    "background": "str", "seed": "int", "shard": "int", "sources": "list[int]",
}  # fmt: skip
_KINDS = ("single", "multi", "negative", "composed")
CLIP_TOKENS = 77  # positions of Stable Diffusion's text encoder


def make_plan(
    settings: Settings,
    vocabulary: Vocabulary,
    *,
    count_tokens: TokenCounter | None = None,
    max_tokens: int = CLIP_TOKENS,
) -> pd.DataFrame:
    """The plan table of these settings.

    `count_tokens` gives the length of each prompt with its begin and end tokens; prompts over `max_tokens` raise
    `PlanError`, as do an unknown class in the budget and a class word that its prompt lacks.
    """
    rng = np.random.default_rng(settings.seed)
    weights = _weights(settings.plan.budget, vocabulary)
    chosen = choose_classes(rng, settings.plan, weights, vocabulary)
    rows = [word_row(vocabulary, classes, draws) for classes, draws in random_numbers(rng, chosen)]
    if settings.plan.captions:
        captions = sort_captions(read_captions(settings.plan.captions), vocabulary, count_tokens, max_tokens)
        captioned = np.random.default_rng([settings.seed, 1])  # its own, so that the other rows stay as they were
        rows = with_captions(rows, captions, settings.plan.captioned, captioned)
    rows += _compose(rng, settings.compose.images, chosen, rows, vocabulary)
    plan = pd.DataFrame(rows, columns=Row._fields)
    plan.insert(0, "row", np.arange(len(plan), dtype=np.int64))
    plan.insert(1, "id", [f"{row:08d}" for row in range(len(plan))])
    plan["seed"] = np.array([_seed(settings.seed, row) for row in range(len(plan))], np.int64)
    plan["shard"] = _shards(len(chosen), len(plan), settings.plan.shard_size)
    _check_phrases(plan)
    if count_tokens is not None:
        _check_lengths(plan, count_tokens, max_tokens)
    return plan


def _weights(budget: dict[str, float] | None, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Weight of each class; one that the budget does not name has 1."""
    vocabulary.choose(list(budget) if budget else None, field="plan.budget")  # raises for an unknown class
    weights = np.array([(budget or {}).get(name, 1.0) for name in vocabulary.names])
    if not weights.any():
        raise PlanError("plan.budget gives every class weight 0; give one of them more")
    return weights


def _compose(
    rng: np.random.Generator, count: int, chosen: Ints, rows: Sequence[Row], vocabulary: Vocabulary
) -> list[Row]:
    """Scenes of two or three single rows' objects on a negative row's image."""
    grounds = np.flatnonzero((chosen < 0).all(1)).tolist()
    if count and not grounds:
        raise PlanError("compose.images needs rows with a background only; raise plan.negatives or set it to 0")
    single = chosen[:, 1] < 0
    objects = [np.flatnonzero(single & (chosen[:, 0] == index)).tolist() for index in range(len(vocabulary.classes))]
    available = np.array([float(bool(rows_of_class)) for rows_of_class in objects])
    composed = []
    for classes, draws in random_numbers(rng, distinct_classes(rng, count, available, vocabulary)):
        entries = [vocabulary.classes[index] for index in classes]
        scenes = {background.name for background in vocabulary.grounds(entries)}
        suitable = [row for row in grounds if rows[row].background in scenes] or grounds
        sources = [pick(suitable, draws), *(pick(objects[index], draws) for index in classes)]
        composed.append(word_composed(vocabulary, entries, rows[sources[0]], sources))
    return composed


def _seed(run_seed: int, row: int) -> int:
    """63 bits that no other row of the run shares, whatever else the plan holds."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{row}".encode()).digest()[:8], "big") >> 1


def _shards(generated: int, total: int, size: int) -> Ints:
    rows = np.arange(total, dtype=np.int64)
    composed = -(-generated // size) + (rows - generated) // size
    return np.where(rows < generated, rows // size, composed)


def _check_phrases(plan: pd.DataFrame) -> None:
    for identifier, prompt, phrases in zip(plan["id"], plan["prompt"], plan["phrases"], strict=True):
        for phrase in phrases:
            if not has_word(prompt, phrase):
                raise PlanError(f"row {identifier}: {phrase!r} is not in its prompt {prompt!r}; mend the vocabulary")


def _check_lengths(plan: pd.DataFrame, count_tokens: TokenCounter, max_tokens: int) -> None:
    prompts = list(plan.loc[plan["kind"] != "composed", "prompt"].unique())
    longest, prompt = max(zip(count_tokens(prompts), prompts, strict=True))
    if longest > max_tokens:
        raise PlanError(
            f"prompt {prompt!r} takes {longest} tokens, the generator's tokenizer {max_tokens}; shorten the "
            f"vocabulary's templates and phrases"
        )


def start_run(
    store: Store, settings: Settings, *, count_tokens: TokenCounter | None = None, max_tokens: int = CLIP_TOKENS
) -> Settings:
    """Write `runs/<name>/settings.json` and `plan.parquet`, or find them; return the settings with a budget.

    A stored run goes on with its own budget and plan, whatever champion or shard size there is now. Raises
    `SettingsError` if the run was started with other settings, and what `make_plan` raises, before writing anything.
    """
    record, table = (f"runs/{settings.name}/{file}" for file in ("settings.json", "plan.parquet"))
    stored = store.read_json(record, Record) if store.exists(record) else None
    settings = resolve_budget(store, settings, stored)
    if stored:
        check_same_run(stored, settings)
        if store.exists(table):
            return settings
    plan = make_plan(settings, settings.load_vocabulary(), count_tokens=count_tokens, max_tokens=max_tokens)
    if not stored:
        store.write_json(record, settings.record())
    check_same_run(store.read_json(record, Record), settings)  # another run of this name may have started meanwhile
    store.write_table(table, plan)
    return settings


def read_plan(store: Store, settings: Settings) -> pd.DataFrame:
    """The plan of a run that was started; `PlanError` for one that no `make_plan` made of this vocabulary."""
    path = f"runs/{settings.name}/plan.parquet"
    plan, names = store.read_table(path, COLUMNS), set(settings.load_vocabulary().names)
    wrong = {
        "row": plan["row"] != plan.index,
        "id": plan["id"].duplicated(),
        "kind": ~plan["kind"].isin(_KINDS),
        "classes": ~plan["classes"].map(names.issuperset),
        "shard": ~plan["shard"].between(0, len(plan)),
        "sources": ~plan["sources"].map(set(plan.index[plan["kind"] != "composed"]).issuperset),
    }
    for column, rows in wrong.items():
        if rows.any():
            found = plan.loc[rows, column].iloc[0]
            raise PlanError(f"{path}: {column} {found!r} is of no plan of this run; delete the file and run again")
    return plan


def resolve_budget(store: Store, settings: Settings, record: dict[str, Any] | None = None) -> Settings:
    """Settings with their own budget; else that of the run's stored `record`; else what the champion's evaluation left.

    Without any, all weights are equal.
    """
    if settings.plan.budget is not None:
        return settings
    budget = record["settings"]["plan"]["budget"] if record else _champion_budget(store, settings)
    return settings.model_copy(update={"plan": settings.plan.model_copy(update={"budget": budget})})


def _champion_budget(store: Store, settings: Settings) -> dict[str, float] | None:
    """The champion's weights for this run's classes, scaled to a mean of 1, which is what a class new to it has."""
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
        raise PlanError(f"{folder} cannot be opened ({error}); copy the whole pipeline directory again") from error
    return lambda prompts: [len(ids) for ids in tokenizer(prompts)["input_ids"]], tokenizer.model_max_length
