"""Compare: measures the segmenters of a comparison side by side, and writes figures and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from infra.blocks import open_store
from infra.settings import Settings
from infra.store import Store
from infra.text import as_markdown
from tasks.compare.cost import cost_of
from tasks.compare.figures import (
    check_one_set,
    class_rows,
    contender,
    differences,
    image_mious,
    most_different,
    shown,
)
from tasks.compare.page import render_comparison
from tasks.compare.pictures import MOST, Picture, palette_for, predict_into
from tasks.compare.plan import LETTERS, Plan
from tasks.evaluate.evaluate import inference_of
from tasks.evaluate.sets import EvaluationSet, chosen_set, reported_positions
from tasks.evaluate.stored import read_counts
from tasks.report.artifacts import link
from tasks.report.figures import as_percent
from tasks.train.checkpoints import checkpoint_folder, load_checkpoint, read_meta

__all__ = ["record_comparison"]

Found = Mapping[str, Any]


@task(name="compare", task_run_name="compare {plan.name}")
def record_comparison(
    settings: Settings, plan: Plan, names: Sequence[str], evaluations: Sequence[Found]
) -> dict[str, Any]:
    """Write figures and page of evaluated checkpoints, show them in Prefect's UI, return figures.

    Returned is the content of comparison.json. Raises `ValueError` for evaluations of different
    sets.
    """
    check_one_set(evaluations)
    store = open_store(settings.store)
    classes = read_meta(store, names[0])["classes"]
    of = chosen_set(settings.evaluate, classes)
    reported = reported_positions(of, evaluations[0]["images"])
    counts = [
        read_counts(store, name, evaluation, decides=False)
        for name, evaluation in zip(names, evaluations, strict=True)
    ]
    known = np.isin(classes, evaluations[0]["known"])
    chosen = most_different(counts, known, MOST)
    pictures = [Picture.of(of.samples[int(reported[image])]) for image in chosen]
    costs = [_measured(store, settings, name, of, pictures) for name in names]
    found = _figures(store, settings, plan, names, evaluations, costs)
    for each, difference in zip(found["contenders"], differences(counts, known), strict=True):
        each["difference"] = difference
    mious = image_mious(counts, known)[:, chosen].T.tolist()
    found["pictures"] = [
        {"id": picture.name, "miou": dict(zip(LETTERS, values, strict=False))}
        for picture, values in zip(pictures, mious, strict=True)
    ]
    _write(store, settings, plan, found, pictures, classes)
    _show(store, settings, plan, found)
    return found


def _figures(
    store: Store,
    settings: Settings,
    plan: Plan,
    names: Sequence[str],
    evaluations: Sequence[Found],
    costs: Sequence[Found],
) -> dict[str, Any]:
    first = evaluations[0]
    metas = [read_meta(store, name) for name in names]
    return {
        "name": plan.name,
        **{name: first[name] for name in ("set", "fingerprint", "images", "known")},
        "batch_size": settings.evaluate.batch_size,
        "minutes": settings.compare.minutes,
        "contenders": [
            contender(position, *each)
            for position, each in enumerate(zip(metas, evaluations, costs, strict=True))
        ],
    }


def _measured(
    store: Store, settings: Settings, name: str, of: EvaluationSet, pictures: Sequence[Picture]
) -> dict[str, Any]:
    """Return the cost of a checkpoint's network, after it predicted the pictures."""
    segmenter = load_checkpoint(store, name)
    inference = inference_of(settings.evaluate)
    predict_into(pictures, segmenter, inference)
    items = (of.samples[index] for index in range(of.images))
    cost = cost_of(segmenter, items, settings.evaluate.batch_size, inference)
    file = f"{checkpoint_folder(name)}/weights.safetensors"
    return {**cost, "file_bytes": store.usage(file).size}


def _write(
    store: Store,
    settings: Settings,
    plan: Plan,
    found: Found,
    pictures: Sequence[Picture],
    classes: Sequence[str],
) -> None:
    """Write the page, then comparison.json."""
    palette = palette_for(classes, settings.load_vocabulary())
    cells = [
        {**picture.cell(palette), **row}
        for picture, row in zip(pictures, found["pictures"], strict=True)
    ]
    drawn = {number for picture in pictures for number in picture.numbers()}
    colours = {classes[number]: palette[number] for number in sorted(drawn) if number in palette}
    folder = f"comparisons/{plan.name}"
    page = render_comparison(plan.name, found, cells, colours)
    store.write_bytes(f"{folder}/comparison.html", page.encode())
    store.write_json(f"{folder}/comparison.json", found)


def _show(store: Store, settings: Settings, plan: Plan, found: Found) -> None:
    """Show the comparison in Prefect's UI: a row per class, one per segmenter, and a link."""
    contenders = found["contenders"]
    about = f"{', '.join(each['checkpoint'] for each in contenders)} on {as_markdown(found['set'])}"
    rows = class_rows(contenders)
    blank = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    create_table_artifact(blank, key="comparison", description=about)
    headline = [
        {
            "": each["letter"],
            "segmenter": each["checkpoint"],
            "model": as_markdown(each["model"]),
            "mIoU": as_percent(each["miou"]),
            "difference": shown(each["difference"]),
            "calibration error": as_percent(each["calibration_error"]),
        }
        for each in contenders
    ]
    create_table_artifact(headline, key="comparison-segmenters", description=about)
    path = f"comparisons/{plan.name}/comparison.html"
    where = link(store, settings.watch.links, plan.name, path)
    create_markdown_artifact(where, key="comparison-page", description=about)
