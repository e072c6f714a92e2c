"""Recipe: the training settings as the recipe that a segmenter is trained by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.settings import TrainSettings

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from models.segmenters import TrainingRecipe

__all__ = ["recipe_of"]


def recipe_of(train: TrainSettings, seed: int) -> TrainingRecipe:
    """Return the recipe of `train`. All trainings take theirs from here, benchmarks included.

    `seed` is any integer of at least 0. The recipe keeps its lower 32 bits, which is what torch and
    numpy take.
    """
    from models.segmenters import Augmentation, TrainingRecipe

    return TrainingRecipe(
        config=train.model,
        steps=train.steps,
        batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        augmentation=Augmentation(
            paste=train.paste,
            splice=train.splice,
            blur=train.blur,
            occlusion=train.occlusion,
            perspective=train.perspective,
        ),
        seed=seed % 2**32,
    )
