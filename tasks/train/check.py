"""Check: finds out whether a segmenter can be trained as asked, before anything is generated."""

from __future__ import annotations

from infra.settings import Settings, SettingsError, TrainSettings
from infra.store import Store, read_version
from tasks.train.recipe import recipe_of
from tasks.train.start import champion_start, load_start
from tasks.train.train import class_names
from tasks.train.weighting import check_classes, weighting_of

__all__ = ["check_segmenter", "check_sources"]


def check_segmenter(settings: Settings) -> None:
    """Build the segmenter of the settings once, fit its initial weights, and try its schedule.

    Raises `SettingsError` for a model that cannot be built for the vocabulary's classes, for a
    config's schedule that cannot be used, for weights that cannot be read, are another network's,
    or would have to be fetched, and for a number of GPUs that this machine does not have or that
    cannot share a batch.
    """
    train, default = settings.train, TrainSettings()
    chosen, usual = (
        (each.model, each.weights, each.schedule, each.gpus) for each in (train, default)
    )
    if chosen == usual:
        return  # known to work, and mmsegmentation takes seconds to import
    from models.segmenters import Execution, build_segmenter, load_weights, read_schedule

    try:
        recipe = recipe_of(train, settings.seed)
        segmenter = build_segmenter(recipe.config, class_names(settings.load_vocabulary().ids))
        for file in recipe.weights:
            load_weights(segmenter.network, file, segmenter.classes)
        if recipe.schedule == "config":
            read_schedule(recipe.config).check(segmenter.network)
    except ValueError as error:
        raise SettingsError(f"train.model={train.model!r}: {error}") from error
    try:
        Execution(gpus=train.gpus).check(recipe.batch_size)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def check_sources(store: Store, settings: Settings) -> None:
    """Check the versions and the champion that the trainings of these settings take.

    Raises `MissingError` for a named version that is not published, and `SettingsError` for the
    weight of a class that the vocabulary lacks. The same if the training starts from the champion
    and there is none, or it has other classes or is another network.
    """
    train = settings.train
    named = train.versions if isinstance(train.versions, tuple) else ()
    for name in (*named, *train.version_weights):
        read_version(store, name)
    check_classes(weighting_of(train), settings.load_vocabulary().ids)
    if train.start == "champion":
        classes = class_names(settings.load_vocabulary().ids)
        start = champion_start(store, named=lambda start: "")
        load_start(store, start, recipe_of(train, settings.seed), classes)
