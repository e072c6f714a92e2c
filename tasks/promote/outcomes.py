"""Outcomes: how the rows of a run went, by what the plan chose for them.

Two sources: which rows `select` kept, and the survey of published ones (`tasks.promote.survey`).
Composed rows are left out: budgets plan generated ones, and scenes are made of objects that were
kept already, so nearly all of them are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.parsing import checked
from infra.store import Store, StoreError
from infra.store.groups import GroupedTable
from infra.vocabulary import Vocabulary
from tasks.budgets import Survey
from tasks.promote.choices import Choice, choices_of
from tasks.run.layout import stage_folder
from tasks.schemas import Shown

__all__ = ["Outcome", "Outcomes", "keep_rates", "read_outcomes", "survey_path"]

_UNJUDGED = -1
_COLUMNS = {"classes": "list[str]", "kind": "str", "background": "str", "phrases": "list[str]"}


@dataclass
class Outcome:
    """How the rows of one choice went.

    `judged` rows, of which `kept`; `measured` objects in the survey, with the sums of their missing
    IoU and of their uncertainty, both as multiples of the mean of their class.
    """

    judged: int = 0
    kept: int = 0
    measured: int = 0
    missing: float = 0.0
    uncertain: float = 0.0


Outcomes = Mapping[Choice, Outcome]
_Measured = Mapping[tuple[int, str], tuple[float, float]]


def survey_path(run: str) -> str:
    """Return the path in the store of the survey of a run's samples."""
    return f"runs/{run}/survey.json"


def read_outcomes(store: Store, run: str) -> Outcomes:
    """Return the outcome of each choice of a run; none if the run was deleted."""
    path = f"runs/{run}/plan.parquet"
    if not store.exists(path):
        return {}
    plan = GroupedTable(store, path, _COLUMNS)
    vocabulary = _vocabulary(store, run)
    verdicts = _verdicts(store, run, len(plan))
    measured = _measured(store, run)
    found: dict[Choice, Outcome] = defaultdict(Outcome)
    for number, row in enumerate(_rows(plan)):
        if row["kind"] == "composed":
            continue
        choices = choices_of(row, vocabulary)
        for choice in set().union(*choices) if verdicts[number] != _UNJUDGED else ():
            found[choice].judged += 1
            found[choice].kept += int(verdicts[number])
        for name, concerned in zip(row["classes"], choices, strict=True):
            if values := measured.get((number, name)):
                _add(found, concerned, *values)
    return dict(found)


def _add(found: dict[Choice, Outcome], choices: set[Choice], missing: float, unsure: float) -> None:
    for choice in choices:
        found[choice].measured += 1
        found[choice].missing += missing
        found[choice].uncertain += unsure


def keep_rates(outcomes: Outcomes) -> dict[str, float]:
    """Return the share of the judged rows of each class that select kept, by class name."""
    return {
        choice.name: each.kept / each.judged
        for choice, each in sorted(outcomes.items())
        if choice.kind == "classes" and each.judged
    }


def _rows(plan: GroupedTable) -> Iterator[dict[str, Any]]:
    for group in range(len(plan.rows)):
        yield from plan.read(group).to_pylist()


def _vocabulary(store: Store, run: str) -> Vocabulary | None:
    """Return the vocabulary that the run recorded, None if it recorded none."""
    path = f"runs/{run}/settings.json"
    record = store.read_json(path, Shown) if store.exists(path) else {}
    found = record.get("sample_settings", {}).get("vocabulary")
    try:
        return None if found is None else checked(found, Vocabulary)
    except ValueError as error:
        raise StoreError(
            f"{store.url}/{path}: sample_settings.vocabulary: {error}; delete the run"
        ) from error


def _measured(store: Store, run: str) -> _Measured:
    """Return missing IoU and uncertainty of each surveyed object, as multiples of its class's mean.

    So a background is not called hard because hard classes are found on it.
    """
    if not store.exists(survey_path(run)):
        return {}
    objects = store.read_json(survey_path(run), Survey)["objects"]
    table = pd.DataFrame(objects, columns=["row", "of", "missing", "uncertain"])
    means = table.groupby("of")[["missing", "uncertain"]].transform("mean")
    relative = (table[["missing", "uncertain"]] / means).fillna(1.0)  # a class without any error
    keys = zip(table["row"], table["of"], strict=True)
    return dict(zip(keys, relative.itertuples(index=False, name=None), strict=True))


def _verdicts(store: Store, run: str, rows: int) -> NDArray[np.int8]:
    """Return the verdict on each row of a run's plan: 1 kept, 0 rejected, `_UNJUDGED` without."""
    folder = stage_folder(run, "select")
    verdicts = np.full(rows, _UNJUDGED, np.int8)
    columns = {"row": "int", "keep": "bool"}
    paths = [f"{folder}/{name}" for name in store.list(folder) if name.endswith(".parquet")]
    with ThreadPoolExecutor(store.place.readers) as pool:
        for table in pool.map(lambda path: store.read_table(path, columns), paths):
            known = table[table["row"].between(0, rows - 1)]
            verdicts[known["row"]] = known["keep"]
    return verdicts
