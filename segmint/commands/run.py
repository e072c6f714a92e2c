"""Commands that make a dataset: run, plan, report."""

from __future__ import annotations

from typing import Annotated

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, Json, again, settings_of, store_of
from segmint.commands.training import described_outcome

__all__ = ["plan", "report", "run"]


def run(
    config: Config = None,
    flags: Flags = None,
    train: Annotated[bool, typer.Option(help="Train and evaluate a segmenter on it.")] = True,
) -> None:
    """Make and publish a dataset, then train and evaluate a segmenter on it.

    The stages are plan, generate, label, select, publish, train and evaluate. The same command
    continues an interrupted run from the store.
    """
    settings = settings_of(config, flags)
    from flows.nightly import nightly
    from flows.retrain import retrain
    from infra.local_server import prefect_api
    from tasks.plan.resolve import resolve, resolve_date, run_exists
    from tasks.publish.version import is_published

    settings = resolve_date(settings)
    store = store_of(settings)
    published = run_exists(store, settings.name) and is_published(resolve(store, settings))
    with prefect_api() as api, show.progress():
        version = api.tracked(nightly)(settings)
        outcome = api.tracked(retrain)(settings, version) if train else None
    done = "already published" if published else "published"
    next_words = ["evaluate", outcome["trained"]["checkpoint"]] if outcome else ["train", version]
    show.facts(
        [
            ("report", f"{store.url}/runs/{settings.name}/report.html"),
            ("dataset", f"{done}: {version} in {store.url}/versions/{version}"),
            *(described_outcome(outcome) if outcome else [("segmenter", "not trained")]),
            ("next", again(["verify", version], config, flags)),
            ("", again(next_words, config, flags)),
        ]
    )


def plan(
    config: Config = None,
    flags: Flags = None,
    examples: Annotated[int, typer.Option(min=0, help="How many prompts to show.")] = 10,
    json: Json = False,
) -> None:
    """Show what a run would make, and its cost, without starting it."""
    settings = settings_of(config, flags)
    from segmint.preview import preview

    preview(store_of(settings), settings, examples, json)


def report(
    run: Annotated[
        str | None, typer.Argument(help="A run; without it, the run that the settings name.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Write a run's report again, from what the store holds."""
    settings = settings_of(config, flags)
    from tasks.plan.resolve import resolve_date
    from tasks.report.page import write_report

    store = store_of(settings)
    path = write_report(store, run or resolve_date(settings).name)
    show.say(f"{store.url}/{path}")
