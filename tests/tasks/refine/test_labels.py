"""Refine: label maps follow the object, and their columns say what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from infra.settings import RefineSettings, Settings
from infra.store import Store, read_shard, write_shard
from models.masks import IGNORE, AffinityNet
from tasks.plan.rows import start_run
from tasks.refine.labels import refine, refine_rows

SIDE = 64
MAP = 16  # side of an attention map
IDS = {"car": 3, "tree": 7}
SETTINGS = RefineSettings()
ROWS = pd.DataFrame({"row": [4, 5], "id": ["00000004", "00000005"], "classes": [["car"], []]})


def sample() -> dict[str, Any]:
    """A red square on green with attention on it, and a green image without an object.

    The second map is that of the background.
    """
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    images[:] = (40, 160, 60)
    images[0, 16:48, 16:48] = (200, 30, 30)
    images += np.random.default_rng(0).integers(0, 12, images.shape, dtype=np.uint8)
    maps = np.full((2, 2, MAP, MAP), 0.05, np.float16)
    maps[0, 0, 4:12, 4:12] = 1
    maps[0, 1] = 1 - maps[0, 0]
    return {"images": images, "attention": maps, "cross": maps.copy()}


def refined(
    settings: RefineSettings = SETTINGS, net: AffinityNet | None = None, **changes: Any
) -> tuple[np.ndarray, pd.DataFrame]:
    given = {"rows": ROWS, **sample(), **changes}
    return refine_rows(**given, settings=settings, ids=IDS, net=net)


def test_the_label_is_the_object_and_has_the_class_s_id() -> None:
    labels, _ = refined()
    truth = np.zeros((SIDE, SIDE), bool)
    truth[16:48, 16:48] = True
    found = labels[0] == IDS["car"]
    assert labels.dtype == np.uint8 and labels.shape == (2, SIDE, SIDE)
    assert set(np.unique(labels[0])) <= {0, IDS["car"], IGNORE}
    assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_a_row_without_classes_has_an_empty_label() -> None:
    labels, table = refined()
    assert set(np.unique(labels[1])) <= {0, IGNORE}
    assert table["coverage"][1] == 0


def test_columns_are_the_plan_s_rows_and_shares_of_the_label() -> None:
    labels, table = refined()
    assert list(table["row"]) == [4, 5] and list(table["id"]) == list(ROWS["id"])
    ignored = labels == IGNORE
    np.testing.assert_allclose(table["ignored"], ignored.mean((1, 2)))
    np.testing.assert_allclose(table["coverage"], ((labels > 0) & ~ignored).mean((1, 2)))
    for measure in ("confidence", "consistency", "contrast"):
        assert 0 <= table[measure][0] <= 1
    assert table["contrast"][0] == pytest.approx(0.95, abs=0.01)  # (max - min) / max


def test_maps_of_the_background_and_unused_maps_do_not_count() -> None:
    expected, _ = refined()
    maps = sample()["attention"]
    maps[:, 1] = 0.5
    labels, _ = refined(attention=maps, cross=maps)
    np.testing.assert_array_equal(labels, expected)


def test_a_label_does_not_depend_on_the_other_rows() -> None:
    labels, table = refined()
    alone, columns = refined(
        rows=ROWS.iloc[:1], **{name: values[:1] for name, values in sample().items()}
    )
    np.testing.assert_array_equal(alone[0], labels[0])
    assert columns.iloc[0].to_dict() == table.iloc[0].to_dict()


def test_a_wider_ignore_band_ignores_more() -> None:
    ramp = np.linspace(0.05, 1, MAP, dtype=np.float16)
    maps = np.broadcast_to(ramp, (2, 2, MAP, MAP)).copy()
    grey = np.random.default_rng(0).integers(90, 160, (2, SIDE, SIDE, 3), dtype=np.uint8)
    shares = []
    for band in (0.0, 0.1, 0.4):
        _, table = refined(
            RefineSettings(ignore_band=band), images=grey, attention=maps, cross=maps
        )
        shares.append(table["ignored"][0])
    assert shares[0] < shares[1] < shares[2]


class Colours(AffinityNet):
    """Features by which pixels of one colour belong together, without any training."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 8 * functional.avg_pool2d(images, 4)


def test_with_an_affinity_network_labels_come_from_its_walk() -> None:
    labels, table = refined(net=Colours().eval())
    colour, _ = refined()
    assert set(np.unique(labels[0])) <= {0, IDS["car"], IGNORE}
    walked = labels[0] == IDS["car"]
    assert walked[20:44, 20:44].mean() > 0.9
    assert walked[:8].mean() < 0.1
    assert (labels[0] != colour[0]).any()
    assert list(table.columns) == list(refined()[1].columns)


def test_a_shard_is_labelled_once_and_its_marker_has_the_shares(tmp_path: Path) -> None:
    settings = Settings(
        store={"url": str(tmp_path)},
        classes=("car",),
        plan={"images": 2, "multi": 0.0, "negatives": 0.0},
    )
    store = Store.open(str(tmp_path))
    start_run(store, settings)
    rows = store.read_table("runs/nightly/plan.parquet")[["row", "id"]]
    made = sample()
    arrays = {name: made[name] for name in ("attention", "cross")} | {"image": made["images"]}
    write_shard(store, "runs/nightly/synthesize/00000", arrays, rows)
    marker = refine.shard(settings, 0)
    _, table = read_shard(store, "runs/nightly/refine/00000", [])
    assert marker.stats == {
        "coverage": table["coverage"].mean(),
        "ignored": table["ignored"].mean(),
    }
    store.delete("runs/nightly/synthesize")
    assert refine.shard(settings, 0) == marker
