"""Artifacts: a run's results in Prefect's UI, as tables, images and links.

Artifact keys do not depend on the run, so Prefect keeps a history of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from infra.credentials import public
from infra.store import Store
from infra.text import as_markdown
from tasks.promote.pointer import read_champion
from tasks.report.examples import label_sheet, sample_sheet
from tasks.report.figures import as_percent, class_rows, figures, reason_rows
from tasks.report.sheets import data_uri
from tasks.report.steering import steering_table
from tasks.report.stored_run import StoredRun
from tasks.run.progress import measured

__all__ = ["link", "links", "report_measurements", "show"]


def show(store: Store, stored: StoredRun, web: str | None) -> None:
    """Create the run's artifacts in Prefect's UI.

    `web` is the address of the store's root for browsers, None if it has none.
    """
    about = f"Run {stored.run}"
    headline = [figure._asdict() for figure in figures(stored)]
    create_table_artifact(headline, key="report-figures", description=about)
    classes = list(_classes(stored))
    create_table_artifact(
        classes, key="report-classes", description=f"{about}: samples kept per class"
    )
    reasons = list(_reasons(stored))
    create_table_artifact(
        reasons, key="report-reasons", description=f"{about}: reasons for rejection"
    )
    if weights := list(steering_table(stored.budget)):
        weighed = f"{about}: what the next run makes more of; 1 is an even part"
        create_table_artifact(weights, key="report-budget", description=weighed)
    if sheet := sample_sheet(store, stored):
        legend = f"{about}: image, label, {stored.found}; green bar: kept, red bar: rejected"
        create_image_artifact(data_uri(sheet), key="report-samples", description=legend)
    if sheet := label_sheet(store, stored):
        legend = f"{about}: labels of kept samples"
        create_image_artifact(data_uri(sheet), key="report-labels", description=legend)
    create_markdown_artifact(links(store, stored, web), key="report-links", description=about)


def report_measurements(stored: StoredRun) -> None:
    """Report keep rates per class and numbers of rejections per reason to the listeners."""
    kept = {row["name"]: row["rate"] for row in class_rows(stored) if row["rate"] is not None}
    rejected = {reason: float(number) for reason, number, _ in reason_rows(stored.counts)}
    measured("report", {"keep_ratio": kept, "rejected_samples": rejected})


def _classes(stored: StoredRun) -> Iterator[dict[str, Any]]:
    for row in class_rows(stored):
        counts = {
            name: getattr(row["counts"], name) for name in ("planned", "made", "kept", "rejected")
        }
        yield {
            "class": row["name"],
            **counts,
            "keep rate": as_percent(row["rate"]),
            "IoU": as_percent(row["iou"]),
        }


def _reasons(stored: StoredRun) -> Iterator[dict[str, Any]]:
    rows = list(reason_rows(stored.counts))
    total = sum(number for _, number, _ in rows)
    for reason, number, meaning in rows:
        yield {
            "reason": reason,
            "samples": number,
            "share": as_percent(number / total),
            "meaning": meaning,
        }


def links(store: Store, stored: StoredRun, web: str | None) -> str:
    """Return where report, dataset version and champion are, as Markdown.

    They are links if `web` is given, else paths.
    """
    champion = read_champion(store)
    rows = {
        "Report": (f"of run {stored.run}", f"runs/{stored.run}/report.html"),
        "Dataset version": (stored.version, f"versions/{stored.version}/manifest.json"),
        "Champion": ("none yet", ""),
    }
    if champion:
        name = champion["checkpoint"]
        rows["Champion"] = (name, f"checkpoints/{name}/meta.json")
    return "\n".join(f"- {what}: {link(store, web, *row)}" for what, row in rows.items())


def link(store: Store, web: str | None, name: str, path: str) -> str:
    """Return where a file of the store is as Markdown: a link, or its path without `web`."""
    if not path:
        return as_markdown(name)
    if web:
        return f"[{as_markdown(name)}]({web.rstrip('/')}/{quote(path)})"
    return f"{as_markdown(name)}, {as_markdown(f'{public(store.url)}/{path}')}"
