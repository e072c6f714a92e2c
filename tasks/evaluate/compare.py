"""Compare: the IoU of two checkpoints on one set, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from infra.blocks import open_store
from infra.settings import Settings
from infra.store import Store
from infra.text import as_markdown

__all__ = ["comparison", "record_comparison", "write_comparison"]

Row = dict[str, Any]


def comparison(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """Return rows of `class`, `first`, `second` and `difference` (second less first).

    IoU is in [0, 1], None where a class is not in the set. The mean comes first, then the classes
    by rising difference. Raises `ValueError` for evaluations of different sets.
    """
    if first["fingerprint"] != second["fingerprint"]:
        raise ValueError(
            f"the evaluations are of different sets, {first['set']} "
            f"({first['fingerprint'][:12]}) and {second['set']} ({second['fingerprint'][:12]}); "
            "evaluate both on one set"
        )
    mean = _row("mean", first["miou"], second["miou"])
    names = [*first["iou"], *(name for name in second["iou"] if name not in first["iou"])]
    rows = [_row(name, first["iou"].get(name), second["iou"].get(name)) for name in names]
    return [
        mean,
        *sorted(rows, key=lambda row: (row["difference"] is None, row["difference"] or 0.0)),
    ]


def _row(name: str, first: float | None, second: float | None) -> Row:
    difference = None if first is None or second is None else round(second - first, 6)
    return {"class": name, "first": first, "second": second, "difference": difference}


def write_comparison(store: Store, names: tuple[str, str], found: tuple[Row, Row]) -> list[Row]:
    """Write the comparison of two evaluations to `comparisons/` and return its rows."""
    rows = comparison(*found)
    path = f"comparisons/{names[0]}--{names[1]}-{found[0]['fingerprint'][:16]}.json"
    store.write_json(
        path, {"first": names[0], "second": names[1], "set": found[0]["set"], "rows": rows}
    )
    return rows


@task(name="compare", task_run_name="compare")
def record_comparison(
    settings: Settings, names: tuple[str, str], found: tuple[Row, Row]
) -> list[Row]:
    """Write a comparison to the store, show it in Prefect's UI, and return its rows."""
    rows = write_comparison(open_store(settings.store), names, found)
    shown = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    about = f"{names[0]} and {names[1]} on {as_markdown(found[0]['set'])}"
    create_table_artifact(shown, key="comparison", description=about)
    return rows
