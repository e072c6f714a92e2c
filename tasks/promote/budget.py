"""Budget: what each class gets of the next night, by what its label IoU lacks and how many of its
samples are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from infra.store import Store
from infra.store.groups import GroupedTable

__all__ = ["keep_rates", "next_budget"]

LEAST, MOST = (
    0.5,
    2.0,
)  # bounds of a class's share, in equal shares: no class starves, none takes the night
LEAST_NEED = 0.05  # even a perfect class goes on being made
LEAST_KEPT = (
    0.1  # a class that is hardly ever kept is a matter of prompts and masks, not of more images
)
_UNJUDGED = -1


def next_budget(iou: Mapping[str, float | None], kept: Mapping[str, float]) -> dict[str, float]:
    """Share of the next night's images of each class in `kept`, weaker classes more; the shares sum
    to 1.

    Class c needs w_c = max(1 - IoU_c, LEAST_NEED) / max(kept_c, LEAST_KEPT): what it lacks, in
    images that have to be generated for one that is kept. Shares are w_c / Σ w, moved into [LEAST,
    MOST] / number of classes with the rest scaled to make up for it. `iou` is by class name; a
    class that was not measured counts as the mean of the others.
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
    """clip(s·weights, low, high) with the scale s at which it sums to 1, found by halving."""
    bottom, top = 0.0, high / weights.min()
    for _ in range(100):  # the sum grows with s, from below 1 to above
        middle = (bottom + top) / 2
        bottom, top = (
            (middle, top) if np.clip(middle * weights, low, high).sum() < 1 else (bottom, middle)
        )
    shares: NDArray[np.float64] = np.clip(top * weights, low, high)
    return shares


def keep_rates(store: Store, run: str) -> dict[str, float]:
    """Share of a run's planned rows of each class that select kept, by class name; none if the run
    is gone.
    """
    if not store.exists(f"runs/{run}/plan.parquet"):
        return {}
    plan = GroupedTable(store, f"runs/{run}/plan.parquet", {"classes": "list[str]"})
    verdicts, judged, kept = _verdicts(store, run, len(plan)), Counter[str](), Counter[str]()
    classes = (
        names
        for group in range(len(plan.rows))
        for names in plan.read(group)["classes"].to_pylist()
    )
    for verdict, names in zip(verdicts, classes, strict=True):
        if verdict != _UNJUDGED:
            judged.update(names)
            kept.update(names if verdict else ())
    return {name: kept[name] / number for name, number in sorted(judged.items())}


def _verdicts(store: Store, run: str, rows: int) -> NDArray[np.int8]:
    """Whether each row of a run's plan was kept, 1 or 0, or has not been judged."""
    folder, verdicts = f"runs/{run}/select", np.full(rows, _UNJUDGED, np.int8)
    paths = [f"{folder}/{name}" for name in store.list(folder) if name.endswith(".parquet")]
    with ThreadPoolExecutor(store.place.readers) as pool:
        for table in pool.map(
            lambda path: store.read_table(path, {"row": "int", "keep": "bool"}), paths
        ):
            known = table[table["row"].between(0, rows - 1)]
            verdicts[known["row"]] = known["keep"]
    return verdicts
