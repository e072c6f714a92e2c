"""Budget: the weights by which a run plans its images, from the settings or from the champion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from infra.settings import Settings
from infra.store import Store
from infra.store.log import read_last
from infra.vocabulary import Vocabulary
from tasks.budgets import Planned
from tasks.schemas import CHAMPIONS

__all__ = ["FIELDS", "resolve_budget"]

FIELDS = ("budget", "backgrounds", "counts", "sizes", "subclasses")  # of the section `plan`


def resolve_budget(
    store: Store, settings: Settings, record: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings with weights: their own, else the stored run's, else the champion's.

    `record` is the stored run's settings.json. Without any weights all are equal. Images of label
    maps have none.
    """
    if settings.generator.flow is not None:
        return settings
    missing = [name for name in FIELDS if getattr(settings.plan, name) is None]
    if record:
        found = record["settings"]["plan"]
    else:
        _, champion = read_last(store, CHAMPIONS, Planned)
        found = _champions(champion or {}, settings.load_vocabulary())
    weights = {name: found.get(name) for name in missing}
    return settings.model_copy(update={"plan": settings.plan.model_copy(update=weights)})


def _champions(champion: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the champion's weights of what the vocabulary has, by field of the plan.

    Those of classes are scaled to mean 1. What the champion does not know has weight 1.
    """
    weights = champion.get("weights", {})
    options = {
        "backgrounds": [background.name for background in vocabulary.backgrounds],
        "counts": ["two", "three"],
        "sizes": vocabulary.sizes,
    }
    found: dict[str, Any] = {"budget": _scaled(_known(champion.get("budget"), vocabulary.names))}
    for field, names in options.items():
        found[field] = _known(weights.get(field), names) or None
    by_class = weights.get("subclasses", {})
    subclasses = {
        entry.name: _known(by_class.get(entry.name), list(entry.subclasses))
        for entry in vocabulary.classes
    }
    found["subclasses"] = {name: words for name, words in subclasses.items() if words} or None
    return found


def _known(weights: Mapping[str, float] | None, names: Any) -> dict[str, float]:
    return {name: weight for name, weight in (weights or {}).items() if name in names}


def _scaled(budget: Mapping[str, float]) -> dict[str, float] | None:
    mean = math.fsum(budget.values()) / max(len(budget), 1)
    return {name: round(weight / mean, 6) for name, weight in budget.items()} if mean else None
