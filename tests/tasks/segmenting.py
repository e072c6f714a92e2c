"""A published version of small pictures, and settings that train a tiny segmenter on it in a
second.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.settings import Settings
from infra.store import Store, publish_version, write_shard
from tests.models.test_segmenters import TINY, Squares

VERSION = "nightly-0123abcd"


def publish_squares(
    store: Store, version: str = VERSION, count: int = 12, run: str = "nightly", identity: str = ""
) -> None:
    """Two shards of red cars and blue buses on grey."""
    items = [Squares()[index] for index in range(count)]
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
        meta={"run": run, "identity": identity, "classes": {"car": 1, "bus": 2}},
    )


def write_run(store: Store, keep: dict[str, list[bool]]) -> None:
    """The plan and verdicts of run `nightly`: for each class, one row a verdict."""
    rows = [(name, kept) for name, verdicts in keep.items() for kept in verdicts]
    table = pd.DataFrame(
        {"row": range(len(rows)), "id": [f"{row:08d}" for row in range(len(rows))]}
    )
    store.write_json("runs/nightly/settings.json", {})
    store.write_table(
        "runs/nightly/plan.parquet", table.assign(classes=[[name] for name, _ in rows])
    )
    verdicts = table.assign(
        keep=[kept for _, kept in rows], reason=["" if kept else "area" for _, kept in rows]
    )
    write_shard(store, "runs/nightly/select/00000", {}, verdicts)


def small_settings(folder: Path, **sections: Any) -> Settings:
    """Settings of run `nightly` with its store, and a tiny mmsegmentation config, in `folder`."""
    (folder / "tiny.py").write_text(TINY)
    train = {"model": str(folder / "tiny.py"), "steps": 4, "batch_size": 4} | sections.pop(
        "train", {}
    )
    return Settings(
        store={"url": str(folder / "store")}, train=train, evaluate={"images": 3}, **sections
    )
