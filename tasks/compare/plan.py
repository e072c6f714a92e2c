"""Plan: which checkpoints and models a comparison has, checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from string import ascii_uppercase
from typing import Any

from infra.blocks import open_store
from infra.settings import Settings, SettingsError
from infra.store import Store, StoreError, read_version
from tasks.promote.champion import champion_of
from tasks.schemas import origin_of
from tasks.train.check import check_segmenter
from tasks.train.checkpoints import read_meta
from tasks.train.protocols import protocol_of
from tasks.train.recipe import recipe_of
from tasks.train.train import class_names
from tasks.train.weighting import weighting_of

__all__ = ["LETTERS", "Plan", "plan_comparison", "training_settings"]

LETTERS = ascii_uppercase[:8]  # one per segmenter; more columns would not fit on the page


@dataclass(frozen=True)
class Plan:
    """A comparison: its name, checkpoints, and models that are trained on `version` first."""

    name: str
    checkpoints: tuple[str, ...]
    models: tuple[str, ...] = ()
    version: str | None = None


def plan_comparison(settings: Settings, checkpoints: Sequence[str], version: str | None) -> Plan:
    """Return the comparison of these checkpoints, then of `compare.models` trained on `version`.

    The settings are those for the version (`for_version`). A single checkpoint is compared with the
    champion, which comes first. Equal arguments give equal names.

    Raises `SettingsError` for too few or too many, for one that is named twice, for models without
    a version or the reverse, and for trainings that would not be equal; what `check_segmenter`
    raises for a model; `StoreError` for a checkpoint that does not exist or has other classes.
    """
    models = settings.compare.models
    if bool(models) != bool(version):
        raise SettingsError(
            f"compare.models is {list(models)} and the version {version!r}; give both, to train "
            "models on it, or neither, to compare checkpoints"
        )
    chosen = tuple(checkpoints)
    if len(chosen) + len(models) == 1:
        chosen = (champion_of(settings), *chosen)
    count = len(chosen) + len(models)
    if not 2 <= count <= len(LETTERS) or len(set(chosen)) < len(chosen):
        raise SettingsError(
            f"checkpoints {list(chosen)} and models {list(models)}: give 2 to {len(LETTERS)} "
            "segmenters, each once"
        )
    store = open_store(settings.store)
    _check_classes(store, chosen, version)
    trainings = [training_settings(settings, model) for model in models]
    for training in trainings:
        check_segmenter(training)
    recipes = [recipe_of(training.train, training.seed) for training in trainings]
    _check_equal(settings, [recipe.steps * recipe.batch_size for recipe in recipes])
    if settings.compare.minutes:
        recipes = [replace(recipe, steps=0) for recipe in recipes]
    evaluation = settings.evaluate.model_dump(mode="json")
    data = _data(settings)
    made_of = [chosen, version, data, settings.compare.minutes, evaluation, *map(asdict, recipes)]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return Plan(f"{version or chosen[0]}-{digest[:8]}", chosen, models, version)


def _data(settings: Settings) -> list[Any]:
    """Return what the trainings learn from."""
    weighting = weighting_of(settings.train)
    weights = [asdict(weighting)] if weighting else []
    return [settings.train.versions, asdict(protocol_of(settings)), *weights]


def training_settings(settings: Settings, model: str, steps: int | None = None) -> Settings:
    """Return the settings with another `train.model`, and other steps unless None."""
    changed = {"model": model} | ({} if steps is None else {"steps": steps})
    return settings.model_copy(update={"train": settings.train.model_copy(update=changed)})


def _check_classes(store: Store, checkpoints: Sequence[str], version: str | None) -> None:
    """Raise `StoreError` unless all checkpoints, and the version, have the same classes."""
    found = {name: tuple(read_meta(store, name)["classes"]) for name in checkpoints}
    if version:
        found[version] = class_names(origin_of(read_version(store, version)).classes)
    first = next(iter(found))
    for name, classes in found.items():
        if classes != found[first]:
            raise StoreError(
                f"{name} has the classes {', '.join(classes)}, and {first} has "
                f"{', '.join(found[first])}; compare segmenters of the same classes"
            )


def _check_equal(settings: Settings, pictures: Sequence[int]) -> None:
    """Raise `SettingsError` for trainings that see neither equal pictures nor equal minutes."""
    if settings.compare.minutes is None and len(set(pictures)) > 1:
        shown = ", ".join(map(str, pictures))
        raise SettingsError(
            f"compare.models would train on {shown} images, as their configs say; set train.steps "
            "and train.batch_size, or compare.minutes"
        )
    if pictures and settings.train.start != "scratch":
        raise SettingsError(
            f"train.start is {settings.train.start!r}, which is one model's weights, and "
            "compare.models are several; set train.start to 'scratch'"
        )
    if settings.compare.minutes and settings.train.protocol == "fine-tune":
        raise SettingsError(
            "compare.minutes covers one training, and train.protocol is 'fine-tune', which is two; "
            "choose another protocol, or set train.steps"
        )
