"""Page: the report of a run, one self-contained HTML file made from the store alone.

Every figure on the page names the files that it was counted from. Equal stores give equal pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from prefect import task

from infra.blocks import open_store
from infra.settings import Settings
from infra.store import Store
from tasks.report.artifacts import report_measurements, show
from tasks.report.charts import HEIGHT, WIDTH, curve
from tasks.report.counts import PICKED
from tasks.report.examples import choose, draw_cells
from tasks.report.figures import (
    advice,
    class_rows,
    figures,
    reason_rows,
    time_rows,
    training_rate,
)
from tasks.report.rendering import template
from tasks.report.sheets import Cell, data_uri, encode, strip
from tasks.report.steering import steering_rows
from tasks.report.steps import draw_steps
from tasks.report.stored_run import StoredRun, read_stored_run

__all__ = ["render", "report", "write_report"]

_STEPS = 8  # examples whose steps from attention to label are shown
_STRIP_BYTES = 40_000  # at most, for the images of one example, so that a page stays under 3 MB


@task(name="report", task_run_name="report")
def report(settings: Settings, run: str | None = None) -> str:
    """Write the report of `run` and show its results in Prefect's UI; return the report's path.

    `run` None is the settings' own.
    """
    store = open_store(settings.store)
    stored = read_stored_run(store, run or settings.name)
    path = _write(store, stored)
    report_measurements(stored)
    show(store, stored, settings.watch.links)
    return path


def write_report(store: Store, run: str) -> str:
    """Write `runs/<run>/report.html` and return that path.

    The page names stages that have not run. Raises `MissingError` if the store has nothing of the
    run.
    """
    return _write(store, read_stored_run(store, run))


def _write(store: Store, stored: StoredRun) -> str:
    path = f"runs/{stored.run}/report.html"
    store.write_bytes(path, render(store, stored).encode())
    return path


def render(store: Store, stored: StoredRun) -> str:
    """Return the page as HTML; images are read from the store."""
    unreadable: set[str] = set()
    examples = _examples(store, stored, unreadable)
    damaged = sorted({*stored.damaged, *unreadable})
    return template("report.html").render(
        stored=stored,
        folder=f"runs/{stored.run}",
        counts=stored.counts.whole,
        generated=stored.counts.generated,
        figures=list(figures(stored)),
        advice=list(advice(stored, damaged)),
        examples=examples,
        damaged=damaged,
        classes=list(class_rows(stored)),
        reasons=list(reason_rows(stored.counts)),
        weights={
            kind: steering_rows(stored.budget, kind == "classes")
            for kind in ("classes", "wordings")
        },
        curve=_training_curve(stored),
        training_rate=training_rate(stored.training or {}),
        trained_on=[each["name"] for each in (stored.training or {}).get("versions", [])],
        plot=(WIDTH, HEIGHT),
        times=list(time_rows(stored)),
        settings=_setting_rows(stored.settings),
    )


def _examples(
    store: Store, stored: StoredRun, unreadable: set[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the examples of each kind, as `_example` describes them."""
    made = stored.counts.picked
    composed = made["kind"] == "composed"
    keep = made["keep"]
    chosen = {
        "kept": choose(made[~composed & keep.eq(True)], "first", PICKED),
        "rejected": choose(made[~composed & keep.eq(False)], "reason", PICKED),
        "unjudged": choose(made[~composed & keep.isna()], "first", PICKED),
        "composed": choose(made[composed], "first", PICKED),
    }
    drawn = {
        kind: list(_drawn(store, stored, samples, unreadable)) for kind, samples in chosen.items()
    }
    steps = pd.concat([chosen["kept"][: _STEPS // 2], chosen["rejected"][: _STEPS // 2]])
    traced = draw_steps(store, stored, steps, unreadable)
    return drawn | {"steps": [_example(sample, cell) for sample, cell in traced]}


def _drawn(
    store: Store, stored: StoredRun, samples: pd.DataFrame, unreadable: set[str]
) -> Iterator[dict[str, Any]]:
    cells = draw_cells(store, stored, samples, unreadable=unreadable)
    for sample, cell in zip(samples.to_dict("records"), cells, strict=True):
        yield {**_example(sample, cell), "keep": cell.kept}


def _example(sample: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """Return a sample's columns with `src`, a `data:` URI of its images, and their size."""
    images = strip(cell.tiles)
    uri = data_uri(encode(images, _STRIP_BYTES))
    return {**sample, "src": uri, "width": images.shape[1], "height": images.shape[0]}


def _training_curve(stored: StoredRun) -> Any:
    rows = (stored.training or {}).get("curve") or []
    return curve([row["step"] for row in rows], [row["loss"] for row in rows])


def _setting_rows(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the settings by section, values as JSON; those without a section are called "run"."""
    plain = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    sections = {name: value for name, value in settings.items() if isinstance(value, dict)}
    return {
        title: {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
        for title, values in {"run": plain, **sections}.items()
        if values
    }
