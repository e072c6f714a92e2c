"""Commands about segmenters: train, evaluate, compare, rollback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, Json, settings_of, store_of

if TYPE_CHECKING:
    from infra.store import Store

__all__ = ["compare", "described_outcome", "evaluate", "rollback", "train"]


def train(
    version: Annotated[
        str | None, typer.Argument(help="A published version; without it, the newest.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Train a segmenter on a published version, evaluate it, and promote it if it is better.

    The same command continues an interrupted training from the store.
    """
    settings = settings_of(config, flags)
    version = version or _newest(store_of(settings))
    from flows.retrain import retrain
    from infra.local_server import prefect_api

    with prefect_api() as api, show.progress():
        outcome = api.tracked(retrain)(settings, version)
    show.facts(described_outcome(outcome))


def described_outcome(outcome: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows that show what `promote` returned: the trained network and the champion."""
    from tasks.report.steering import in_words

    rows = [
        (name, f"{_measured(outcome[name]['evaluation'])}, {outcome[name]['checkpoint']}")
        for name in ("trained", "champion")
    ]
    moved = "promoted" if outcome["moved"] else "not promoted"
    rows.append(("decision", f"{moved}: {outcome['reason']}"))
    most = sorted(outcome.get("steering", []), key=lambda row: -row["weight"])[:3]
    more = [
        f"{in_words(row['what'])} {row['name']} ({row['weight']:.1f} times)"
        for row in most
        if row["weight"] > 1
    ]
    return [*rows, *([("next run", f"more of {', '.join(more)}")] if more else [])]


def _measured(evaluation: Mapping[str, Any]) -> str:
    return f"mIoU {evaluation['miou']:.3f} on {evaluation['set']}"


def _newest(store: Store) -> str:
    from infra.store import StoreError, list_versions

    published = list_versions(store)
    if not published:
        raise StoreError(f"{store.url} has no published version; `segmint run` makes one")
    return published[-1].version


def evaluate(
    checkpoint: Annotated[
        str | None, typer.Argument(help="A checkpoint; without it, the champion.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
    json: Json = False,
) -> None:
    """Measure a segmenter on held-out drawn scenes, or on the folder that evaluate.voc names."""
    settings = settings_of(config, flags)
    from tasks.evaluate.evaluate import evaluate as measure
    from tasks.promote.champion import champion_of

    name = checkpoint or champion_of(settings)
    with show.progress():
        found = measure.fn(settings, name)
    if json:
        show.as_json({"checkpoint": name, **found})
        return
    rows = [(of_class, _figure(value)) for of_class, value in found["iou"].items()]
    rows.append(("mean", _figure(found["miou"])))
    show.table(f"{name} on {found['set']}", ["class", "IoU"], rows)


def compare(
    names: Annotated[
        list[str],
        typer.Argument(help="Checkpoints; with models, a published version before them."),
    ],
    models: Annotated[
        str | None,
        typer.Option(help="Models to train on the version, such as segformer,mask2former."),
    ] = None,
    config: Config = None,
    flags: Flags = None,
    json: Json = False,
) -> None:
    """Measure segmenters on the same images and write one page about them.

    They are compared with the first, and a single checkpoint with the champion. With --models (or
    compare.models), the models are trained on the version first, on equal numbers of images, or for
    compare.minutes each.
    """
    flags = [*(flags or ()), *([f"compare.models={models}"] if models else ())]
    settings = settings_of(config, flags)
    from flows.compare import compare as measure_all
    from infra.local_server import prefect_api

    version = names[0] if settings.compare.models else None
    checkpoints = names[1:] if version else names
    with prefect_api() as api, show.progress():
        found = api.tracked(measure_all)(settings, checkpoints, version)
    if json:
        show.as_json(found)
    else:
        _show_comparison(found)


def _show_comparison(found: Mapping[str, Any]) -> None:
    from tasks.compare.figures import class_rows, shown

    contenders = found["contenders"]
    columns = ["", "checkpoint", "model", "mIoU", "difference", "images/s"]
    rows = [
        (
            each["letter"],
            each["checkpoint"],
            each["model"],
            _figure(each["miou"]),
            shown(each["difference"]),
            f"{each['cost']['images_per_second']:.3g}",
        )
        for each in contenders
    ]
    show.table(f"mIoU on {found['set']}, difference in points (95 % interval)", columns, rows)
    by_class = class_rows(contenders)
    columns = list(by_class[0])
    cells = [[row["class"], *(_figure(row[name]) for name in columns[1:])] for row in by_class]
    show.table("IoU", columns, cells)
    show.facts([("page", f"comparisons/{found['name']}/comparison.html")])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def rollback(
    to: Annotated[
        str | None, typer.Option(help="A checkpoint; without it, the best of the others.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Make an earlier champion the champion again.

    The present champion is withdrawn: only another rollback makes it the champion again. Without
    --to, the champion before it follows, or a challenger since that beats that one.
    """
    settings = settings_of(config, flags)
    from flows.rollback import rollback as roll_back
    from infra.local_server import prefect_api

    with prefect_api() as api:
        champion = api.tracked(roll_back)(settings, to)
    show.facts(
        [("champion", champion["checkpoint"]), ("withdrawn", ", ".join(champion["withdrawn"]))]
    )
