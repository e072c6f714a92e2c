"""Start: the champion as the initial weights of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infra.settings import SettingsError
from infra.store import Store
from tasks.promote.pointer import read_champion
from tasks.train.checkpoints import load_checkpoint, read_meta

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from models.segmenters import Segmenter, TrainingRecipe

__all__ = ["FINE_TUNING", "Start", "champion_start", "continued", "load_start"]

FINE_TUNING = 0.3  # of the learning rate: the weights are good already


@dataclass(frozen=True)
class Start:
    """A checkpoint that a training starts from, and the SHA-256 of its weights."""

    checkpoint: str
    sha256: str


def champion_start(store: Store, named: Callable[[Start], str]) -> Start:
    """Return the champion as a start.

    `named` gives the name of the checkpoint that a start would lead to. If that is the champion's
    own, its start is returned: the training is done, and to start it again from its own result
    would train without end. Raises `SettingsError` if there is no champion, and `StoreError` if its
    meta.json cannot be read.
    """
    champion = read_champion(store)
    if champion is None:
        raise SettingsError(
            f"train.start is 'champion', but {store.url} has no champion; train the first "
            "segmenter with train.start = 'scratch'"
        )
    name = champion["checkpoint"]
    meta = read_meta(store, name)
    if begun := meta.get("start"):
        earlier = Start(begun["checkpoint"], begun["sha256"])
        if named(earlier) == name:
            return earlier
    return Start(name, meta["files"]["weights.safetensors"])


def load_start(
    store: Store, start: Start, recipe: TrainingRecipe, classes: Sequence[str]
) -> Segmenter:
    """Return the network of a start.

    Raises `SettingsError` unless it has these classes and is the network of the recipe, and what
    `load_checkpoint` raises.
    """
    from models.segmenters import build_segmenter

    found = load_checkpoint(store, start.checkpoint)
    if list(found.classes) != list(classes):
        raise SettingsError(
            f"train.start is 'champion', but champion {start.checkpoint} has the classes "
            f"{', '.join(found.classes)}, not {', '.join(classes)}; set train.start = 'scratch'"
        )
    if found.config["model"] != build_segmenter(recipe.config, classes).config["model"]:
        raise SettingsError(
            f"train.start is 'champion', but champion {start.checkpoint} is another network than "
            f"train.model = {recipe.config!r}; set train.start = 'scratch', or train.model to the "
            "champion's"
        )
    return found


def continued(recipe: TrainingRecipe) -> TrainingRecipe:
    """Return the recipe of a training that starts from trained weights."""
    return replace(recipe, learning_rate=recipe.learning_rate * FINE_TUNING)
