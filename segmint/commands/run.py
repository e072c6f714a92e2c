"""Commands that make a dataset: run, plan, report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, settings_of, store_of
from segmint.commands.training import described_outcome


def run(
    config: Config = None,
    flags: Flags = None,
    train: Annotated[
        bool, typer.Option(help="Train and evaluate a segmenter on what was published.")
    ] = True,
) -> None:
    """Run one whole night: plan, generate, label, select, publish, train, evaluate.

    The same command resumes it.
    """
    settings = settings_of(config, flags).dated(datetime.now(UTC).date())
    from flows.nightly import nightly
    from flows.retrain import retrain

    from infra.local_server import prefect_api

    with prefect_api() as api, show.progress():
        version = api.tracked(nightly)(settings)
        outcome = api.tracked(retrain)(settings, version) if train else None
    store = store_of(settings)
    same = f" --config {config}" if config else ""
    show.facts(
        [
            ("report", f"{store.url}/runs/{settings.name}/report.html"),
            ("dataset", f"version {version}"),
            ("segmenter", described_outcome(outcome) if outcome else "not trained"),
            (
                "next",
                f"segmint verify {version}{same}  ·  segmint versions{same}  ·  segmint train {version}{same}",
            ),
        ]
    )


def plan(
    config: Config = None,
    flags: Flags = None,
    examples: Annotated[int, typer.Option(min=0, help="How many prompts to show.")] = 10,
) -> None:
    """Show what a run would make, and its cost, without starting it."""
    settings = settings_of(config, flags)
    from segmint.preview import preview

    preview(store_of(settings), settings, examples)


def report(
    run: Annotated[
        str | None, typer.Argument(help="A run; else the one that the settings name.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Write a run's report again, from what the store holds."""
    settings = settings_of(config, flags)
    from tasks.report.page import write_report

    show.say(write_report(store_of(settings), run or settings.name))
