"""A published version of small images, and settings of a training on it that takes a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.settings import Settings
from infra.store import Store, publish_version, write_shard
from testbed.plans import write_plan
from tests.models.test_segmenters import TINY, Squares

VERSION = "nightly-0123abcd"


def publish_squares(
    store: Store,
    version: str = VERSION,
    count: int = 12,
    run: str = "nightly",
    identity: str = "",
    first: int = 0,
    classes: Mapping[str, int] | None = None,
) -> None:
    """Two shards of red cars and blue buses on grey; `first` is the number of the first square."""
    items = [Squares()[index] for index in range(first, first + count)]
    shards = [f"versions/{version}/data/{shard:05d}" for shard in range(2)]
    for shard, path in enumerate(shards):
        part = items[shard::2]
        arrays = {
            "image": np.stack([item["image"].permute(1, 2, 0).numpy() for item in part]),
            "label": np.stack([item["label"].numpy() for item in part]),
        }
        write_shard(store, path, arrays, pd.DataFrame({"id": [item["id"] for item in part]}))
    publish_version(
        store,
        version,
        shards=shards,
        meta={"run": run, "identity": identity, "classes": classes or {"car": 1, "bus": 2}},
    )


def write_run(
    store: Store, keep: dict[str, list[bool]], composed: dict[str, list[bool]] | None = None
) -> None:
    """Write plan and verdicts of run `nightly`: for each class, one row per verdict.

    `composed` rows come after the generated ones.
    """
    rows = [
        (name, kept, kind)
        for kind, by_class in (("single", keep), ("composed", composed or {}))
        for name, verdicts in by_class.items()
        for kept in verdicts
    ]
    table = pd.DataFrame(
        {"row": range(len(rows)), "id": [f"{row:08d}" for row in range(len(rows))]}
    )
    store.write_json("runs/nightly/settings.json", {})
    plan = table.assign(
        classes=[[name] for name, *_ in rows],
        kind=[kind for *_, kind in rows],
        background="street",
        phrases=[[name] for name, *_ in rows],
    )
    write_plan(store, "runs/nightly/plan.parquet", plan)
    verdicts = table.assign(
        keep=[kept for _, kept, _ in rows], reason=["" if kept else "area" for _, kept, _ in rows]
    )
    write_shard(store, "runs/nightly/select/00000", {}, verdicts)


def small_settings(folder: Path, **sections: Any) -> Settings:
    """Return settings of run `nightly` with a tiny mmsegmentation config and its store in `folder`.

    `sections` add to those of train and evaluate, and replace others.
    """
    (folder / "tiny.py").write_text(TINY)
    train = {"model": str(folder / "tiny.py"), "weights": "random", "steps": 4, "batch_size": 4}
    return Settings(
        store={"url": str(folder / "store")},
        train=train | sections.pop("train", {}),
        evaluate={"images": 3} | sections.pop("evaluate", {}),
        **sections,
    )
