"""Commands about segmenters: train, evaluate, compare, rollback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, settings_of, store_of

if TYPE_CHECKING:
    from infra.store import Store


def train(
    version: Annotated[
        str | None, typer.Argument(help="A published version; else the newest.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Train a segmenter on a published version, evaluate it, and promote it if it is better."""
    settings = settings_of(config, flags)
    version = version or _newest(store_of(settings))
    from flows.retrain import retrain
    from infra.local_server import prefect_api

    with prefect_api() as api, show.progress():
        outcome = api.tracked(retrain)(settings, version)
    show.facts([("segmenter", described_outcome(outcome))])


def evaluate(
    checkpoint: Annotated[
        str | None, typer.Argument(help="A checkpoint; else the champion.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Measure a segmenter on held-out drawn scenes, or on the VOC-layout folder that evaluate.voc
    names.
    """
    settings = settings_of(config, flags)
    from tasks.evaluate.evaluate import evaluate as measure
    from tasks.promote.champion import champion_of

    name = checkpoint or champion_of(settings)

    with show.progress():
        found = measure.fn(settings, name)
    iou = [
        (of_class, "-" if value is None else f"{value:.3f}")
        for of_class, value in found["iou"].items()
    ]
    show.table(
        f"{name} on {found['set']}", ["class", "IoU"], [*iou, ("mean", f"{found['miou']:.3f}")]
    )


def compare(
    second: Annotated[str, typer.Argument(help="A checkpoint.")],
    first: Annotated[str | None, typer.Option(help="Another one; else the champion.")] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Measure two checkpoints on the same pictures and show what differs, class by class."""
    settings = settings_of(config, flags)
    from flows.compare import compare as measure_both
    from infra.local_server import prefect_api

    with prefect_api() as api, show.progress():
        rows = api.tracked(measure_both)(settings, second, first)
    shown = [
        [row["class"], *(_figure(row[name]) for name in ("first", "second", "difference"))]
        for row in rows
    ]
    show.table(
        f"{first or 'the champion'} and {second}, IoU",
        ["class", "first", "second", "difference"],
        shown,
    )


def rollback(
    to: Annotated[
        str | None, typer.Option(help="A checkpoint; else the champion before this one.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Make an earlier champion the champion again; the one that stood does not come back by itself."""
    settings = settings_of(config, flags)
    from flows.rollback import rollback as roll_back
    from infra.local_server import prefect_api

    with prefect_api() as api:
        champion = api.tracked(roll_back)(settings, to)
    show.facts(
        [("champion", champion["checkpoint"]), ("withdrawn", ", ".join(champion["withdrawn"]))]
    )


def described_outcome(outcome: Mapping[str, Any]) -> str:
    """What a training came to: who is champion now, as `promote` returns it, and why."""
    evaluation = outcome["evaluation"]
    measured = f"mIoU {evaluation['miou']:.3f} on {evaluation['set']}"
    return f"{measured}: champion {outcome['checkpoint']} ({outcome['reason']})"


def _newest(store: Store) -> str:
    from infra.store import StoreError, list_versions

    published = list_versions(store)
    if not published:
        raise StoreError(f"{store.url} holds no published version; `segmint run` makes one")
    return published[-1].version


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
