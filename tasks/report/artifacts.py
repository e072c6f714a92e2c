"""Summary: what Prefect's UI shows of a run's results: tables, pictures and links, all from the
ledger.

Their keys are the same whatever the run, so that Prefect keeps their history.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from infra.credentials import public
from infra.store import Store
from infra.text import as_markdown
from tasks.promote.champion import read_champion
from tasks.report.examples import label_sheet, sample_sheet
from tasks.report.figures import as_percent, class_rows, figures, reason_rows
from tasks.report.pictures import data_uri
from tasks.report.stored_run import Ledger
from tasks.run.progress import measured

__all__ = ["links", "measure", "show"]


def show(store: Store, ledger: Ledger, web: str | None) -> None:
    """Show the run in Prefect's UI;

    `web` is where people's browsers find the store's root, if anywhere.
    """
    about = f"Run {ledger.run}"
    create_table_artifact(
        [figure._asdict() for figure in figures(ledger)], key="report-figures", description=about
    )
    create_table_artifact(
        list(_classes(ledger)), key="report-classes", description=f"{about}: kept of each class"
    )
    create_table_artifact(
        list(_reasons(ledger)),
        key="report-reasons",
        description=f"{about}: why samples were rejected",
    )
    if sheet := sample_sheet(store, ledger):
        legend = "image, label, attention; green bar: kept, red bar: rejected"
        create_image_artifact(
            data_uri(sheet), key="report-samples", description=f"{about}: {legend}"
        )
    if sheet := label_sheet(store, ledger):
        create_image_artifact(
            data_uri(sheet), key="report-labels", description=f"{about}: labels of kept samples"
        )
    create_markdown_artifact(links(store, ledger, web), key="report-links", description=about)


def measure(ledger: Ledger) -> None:
    """Tell whoever watches what was kept, and why the rest was not."""
    kept = {row["name"]: row["rate"] for row in class_rows(ledger) if row["rate"] is not None}
    rejected = {reason: float(number) for reason, number, _ in reason_rows(ledger.census)}
    measured("report", {"keep_ratio": kept, "rejected_samples": rejected})


def _classes(ledger: Ledger) -> Iterator[dict[str, Any]]:
    for row in class_rows(ledger):
        counts = {
            name: getattr(row["counts"], name) for name in ("planned", "made", "kept", "rejected")
        }
        yield {
            "class": row["name"],
            **counts,
            "keep rate": as_percent(row["rate"]),
            "IoU": as_percent(row["iou"]),
        }


def _reasons(ledger: Ledger) -> Iterator[dict[str, Any]]:
    rows = list(reason_rows(ledger.census))
    whole = sum(number for _, number, _ in rows)
    for reason, number, meaning in rows:
        yield {
            "reason": reason,
            "samples": number,
            "share": as_percent(number / whole),
            "meaning": meaning,
        }


def links(store: Store, ledger: Ledger, web: str | None) -> str:
    """Where report, dataset version and champion are, as Markdown; as links if they can be reached
    by `web`.
    """
    champion = read_champion(store)
    checkpoint = champion["checkpoint"] if champion else None
    places = {
        "Report": (f"of run {ledger.run}", f"runs/{ledger.run}/report.html"),
        "Dataset version": (ledger.version, f"versions/{ledger.version}/manifest.json"),
        "Champion": (
            checkpoint or "none yet",
            f"checkpoints/{checkpoint}/meta.json" if checkpoint else "",
        ),
    }
    return "\n".join(f"- {what}: {_place(store, web, *place)}" for what, place in places.items())


def _place(store: Store, web: str | None, name: str, path: str) -> str:
    if web and path:
        return f"[{as_markdown(name)}]({web.rstrip('/')}/{quote(path)})"
    return (
        f"{as_markdown(name)}, {as_markdown(f'{public(store.url)}/{path}')}"
        if path
        else as_markdown(name)
    )
