"""Check: finds out whether a segmenter can be built and started, before anything is generated."""

from __future__ import annotations

from infra.settings import Settings, SettingsError, TrainSettings
from tasks.train.recipe import recipe_of
from tasks.train.train import class_names

__all__ = ["check_segmenter"]


def check_segmenter(settings: Settings) -> None:
    """Build the segmenter of the settings once, fit its initial weights, and try its schedule.

    Raises `SettingsError` for a model that cannot be built for the vocabulary's classes, for a
    config's schedule that cannot be used, for weights that cannot be read, are another network's,
    or would have to be fetched, and for a number of GPUs that this machine does not have or that
    cannot share a batch.
    """
    _check_gpus(settings)
    train, default = settings.train, TrainSettings()
    chosen, usual = ((each.model, each.weights, each.schedule) for each in (train, default))
    if chosen == usual:
        return  # known to work, and mmsegmentation takes seconds to import
    from models.segmenters import build_segmenter, load_weights, read_schedule

    try:
        recipe = recipe_of(train, settings.seed)
        segmenter = build_segmenter(recipe.config, class_names(settings.load_vocabulary().ids))
        for file in recipe.weights:
            load_weights(segmenter.network, file)
        if recipe.schedule == "config":
            read_schedule(recipe.config).check(segmenter.network)
    except ValueError as error:
        raise SettingsError(f"train.model={train.model!r}: {error}") from error


def _check_gpus(settings: Settings) -> None:
    if settings.train.gpus == 1:
        return
    from models.segmenters import Execution

    try:
        batch_size = recipe_of(settings.train, settings.seed).batch_size
        Execution(gpus=settings.train.gpus).check(batch_size)
    except ValueError as error:
        raise SettingsError(str(error)) from None
