"""Recipe: the training settings as the recipe that a segmenter is trained by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from infra.settings import TrainSettings

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from models.segmenters import TrainingRecipe

__all__ = ["recipe_of"]


class _Defaults(NamedTuple):
    steps: int
    batch_size: int
    learning_rate: float
    paste: float


# docs/design-notes.md, "Defaults of training", at equal CPU time
_SEGMINT = _Defaults(1500, 16, 8e-3, paste=1.0)


def recipe_of(train: TrainSettings, seed: int) -> TrainingRecipe:
    """Return the recipe of `train`. All trainings take theirs from here, benchmarks included.

    Raises `ValueError` for initial weights that cannot be read or would have to be fetched, and for
    a config without the schedule that is asked for.
    `seed` is any integer of at least 0. The recipe keeps its lower 32 bits, which is what torch and
    numpy take.
    """
    from models.segmenters import Augmentation, TrainingRecipe, initial_weights, read_schedule

    champion = train.start == "champion"  # whose weights then replace all others
    default = _SEGMINT
    if train.schedule == "config":
        given = read_schedule(train.model)
        default = _Defaults(given.steps, given.batch_size, given.learning_rate, paste=0.0)
    return TrainingRecipe(
        config=train.model,
        schedule=train.schedule,
        steps=train.steps or default.steps,
        batch_size=train.batch_size or default.batch_size,
        learning_rate=train.learning_rate or default.learning_rate,
        augmentation=Augmentation(
            paste=default.paste if train.paste is None else train.paste,
            splice=train.splice,
            blur=train.blur,
            occlusion=train.occlusion,
            perspective=train.perspective,
        ),
        weights=initial_weights(train.model, "random" if champion else train.weights),
        seed=seed % 2**32,
    )
