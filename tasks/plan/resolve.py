"""Resolve: what a configuration means, for every command and flow.

A configuration leaves four things open: `{date}` in the name, the seed that belongs to that date,
the digests of the generator's and labellers' files, and the budget. `resolve` fills in all of them,
so that a dry run shows exactly the plan that a run makes. Commands about a run that exists take the
date from the name of that run.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from prefect.runtime import flow_run

from infra.settings import Settings
from infra.store import Store, read_version
from models.generators import PipelineError, check_pipeline, pipeline_digest, pipeline_folder
from tasks.maps.flow import flow_digest
from tasks.maps.layouts import open_layouts
from tasks.plan.budget import resolve_budget
from tasks.plan.rows import stored_record
from tasks.refine.labellers import with_labellers
from tasks.schemas import origin_of

__all__ = [
    "for_version",
    "resolve",
    "resolve_date",
    "run_exists",
    "with_weights",
]


def resolve(store: Store, settings: Settings) -> Settings:
    """Return the settings of one run: name and seed of its date, the digests of the files of
    generator and labellers, and the budget of the stored run of that name, else the champion's.

    A SemFlow's label maps have a digest as well, and no budget. Raises `PipelineError` for a
    generator that cannot be used, `SettingsError` for such a labeller, and what `flow_digest` and
    `open_layouts` raise for a SemFlow.
    """
    settings = with_labellers(resolve_date(settings))
    if settings.generator.flow is None:
        settings = with_weights(settings)
    else:
        settings = _with_maps(store, settings)
    return resolve_budget(store, settings, stored_record(store, settings.name))


def run_exists(store: Store, run: str) -> bool:
    """Return whether a run of this name has started."""
    return stored_record(store, run) is not None


def resolve_date(settings: Settings) -> Settings:
    """Return the settings with `{date}` in their name filled in, and the seed of that date.

    It is the date in UTC for which the flow run is scheduled, and outside a flow run today's.
    """
    return settings.dated((flow_run.scheduled_start_time or datetime.now(UTC)).date())


def for_version(store: Store, settings: Settings, version: str) -> Settings:
    """Return the settings with the date of the run that published `version`.

    If that run's name is not one that these settings give, the date is today's. Raises
    `MissingError` for a version that is not published.
    """
    run = origin_of(read_version(store, version)).run
    day = _date_in(run, settings.name)
    return settings.dated(day) if day else resolve_date(settings)


def with_weights(settings: Settings) -> Settings:
    """Return the settings with the digest of the generator's files: other weights, another run.

    Raises `PipelineError` for a directory that cannot be sampled from, and for one whose digest is
    not `generator.weights`.
    """
    folder = pipeline_folder(settings.generator.path)
    wanted = settings.generator.weights
    check_pipeline(folder)
    found = pipeline_digest(folder)
    if wanted not in (None, found):
        raise PipelineError(
            f"generator.weights is {wanted}, but the digest of {folder} is {found}; "
            "remove generator.weights, or set generator.path to the pipeline with that digest"
        )
    generator = settings.generator.model_copy(update={"weights": found})
    return settings.model_copy(update={"generator": generator})


def _with_maps(store: Store, settings: Settings) -> Settings:
    """Return the settings with the digests of the SemFlow and of its label maps."""
    digests = {
        "weights": flow_digest(store, settings),
        "labels_digest": open_layouts(store, settings).source.digest,
    }
    generator = settings.generator.model_copy(update=digests)
    return settings.model_copy(update={"generator": generator})


def _date_in(run: str, pattern: str) -> date | None:
    """Return the date that stands for `{date}` in a run's name, if the name has this pattern."""
    before, found, _ = pattern.partition("{date}")
    if not found:
        return None
    match = re.match(rf"{re.escape(before)}(\d{{4}}-\d\d-\d\d)", run)
    try:
        day = date.fromisoformat(match[1]) if match else None
    except ValueError:  # digits that are no date
        return None
    return day if day and pattern.replace("{date}", day.isoformat()) == run else None
