"""Budget: each class's share of the next night's images.

A class gets more the lower its label IoU is, and the fewer of its samples are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from infra.store import Store
from infra.store.groups import GroupedTable
from tasks.run.layout import stage_folder

__all__ = ["keep_rates", "next_budget"]

# Bounds of a class's share, as multiples of an equal share.
LEAST = 0.5
MOST = 2.0
LEAST_NEED = 0.05  # even a perfect class goes on being made
# A class that is hardly ever kept needs other prompts or masks, not more images.
LEAST_KEPT = 0.1
_UNJUDGED = -1


def next_budget(iou: Mapping[str, float | None], kept: Mapping[str, float]) -> dict[str, float]:
    """Return the share of the next night's images of each class in `kept`; the shares sum to 1.

    Class c needs w_c = max(1 - IoU_c, LEAST_NEED) / max(kept_c, LEAST_KEPT): the missing IoU times
    the images that have to be generated for one that is kept. Shares are w_c / Σ w, clipped to
    [LEAST, MOST] / number of classes, with the other shares scaled so that the sum stays 1. `iou`
    and `kept` are by class name, in [0, 1]. A class that was not measured counts as the mean of the
    others. Raises `ValueError` without any class.
    """
    names = sorted(kept)
    if not names:
        raise ValueError("no class was planned; nothing to share the next night among")
    lacking = np.array(
        [1 - value if (value := iou.get(name)) is not None else np.nan for name in names]
    )
    mean = np.nanmean(lacking) if not np.isnan(lacking).all() else 1.0
    need = np.maximum(np.where(np.isnan(lacking), mean, lacking), LEAST_NEED)
    weights = need / np.maximum([kept[name] for name in names], LEAST_KEPT)
    shares = _bounded(weights, LEAST / len(names), MOST / len(names))
    return {name: round(float(share), 6) for name, share in zip(names, shares, strict=True)}


def _bounded(weights: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return clip(s·weights, low, high) with the scale s that makes the sum 1, by bisection."""
    bottom = 0.0
    top = high / weights.min()
    for _ in range(100):  # the sum grows with s, from below 1 to above
        middle = (bottom + top) / 2
        if np.clip(middle * weights, low, high).sum() < 1:
            bottom = middle
        else:
            top = middle
    shares: NDArray[np.float64] = np.clip(top * weights, low, high)
    return shares


def keep_rates(store: Store, run: str) -> dict[str, float]:
    """Return the share of a run's judged rows of each class that select kept, by class name.

    Composed rows are left out: the budget plans generated ones, and scenes are made of objects that
    were kept already, so nearly all of them are kept. Empty if the run was deleted.
    """
    path = f"runs/{run}/plan.parquet"
    if not store.exists(path):
        return {}
    plan = GroupedTable(store, path, {"classes": "list[str]", "kind": "str"})
    verdicts = _verdicts(store, run, len(plan))
    judged = Counter[str]()
    kept = Counter[str]()
    for verdict, (names, kind) in zip(verdicts, _rows(plan), strict=True):
        if verdict != _UNJUDGED and kind != "composed":
            judged.update(names)
            kept.update(names if verdict else ())
    return {name: kept[name] / number for name, number in sorted(judged.items())}


def _rows(plan: GroupedTable) -> Iterator[tuple[list[str], str]]:
    """Yield classes and kind of each row of a plan."""
    for group in range(len(plan.rows)):
        table = plan.read(group)
        yield from zip(table["classes"].to_pylist(), table["kind"].to_pylist(), strict=True)


def _verdicts(store: Store, run: str, rows: int) -> NDArray[np.int8]:
    """Return the verdict on each row of a run's plan: 1 kept, 0 rejected, `_UNJUDGED` without."""
    folder = stage_folder(run, "select")
    verdicts = np.full(rows, _UNJUDGED, np.int8)
    columns = {"row": "int", "keep": "bool"}
    paths = [f"{folder}/{name}" for name in store.list(folder) if name.endswith(".parquet")]
    with ThreadPoolExecutor(store.place.readers) as pool:
        for table in pool.map(lambda path: store.read_table(path, columns), paths):
            known = table[table["row"].between(0, rows - 1)]
            verdicts[known["row"]] = known["keep"]
    return verdicts
