"""How the champion predicts a night that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from infra.settings import EvaluateSettings, Settings
from infra.store import Store, StoreError, publish_version, read_version, write_shard
from models.segmenters import Segmenter
from tasks.promote.choices import Choice
from tasks.promote.outcomes import read_outcomes
from tasks.promote.survey import survey, survey_version
from testbed.plans import write_plan
from tests.tasks.segmenting import small_settings

CLASSES = ("background", "car", "bus")
ROWS = 8
VERSION = "night-0123abcd"


class Halves(torch.nn.Module):
    """A network that finds cars and buses by their red, but on snow (blue) only their left half."""

    def data_preprocessor(self, batch: dict[str, Any], training: bool) -> dict[str, Any]:
        return {"inputs": torch.stack(batch["inputs"])}

    def predict(self, images: Tensor) -> list[Any]:
        from models.segmenters.openmmlab import PixelData, SegDataSample

        label = (images[:, 0] / 100).round().long()
        on_snow = images[:, 2, 0, 0] > 100
        label[on_snow, :, 8:] = 0
        logits = torch.nn.functional.one_hot(label, 3).permute(0, 3, 1, 2) * 100.0
        return [SegDataSample(seg_logits=PixelData(data=one)) for one in logits]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    """A night of cars and buses on sand and on snow, whose last row is composed."""
    store = Store.open(settings.store.url)
    names = ["car" if row % 2 else "bus" for row in range(ROWS)]
    table = pd.DataFrame(
        {
            "row": range(ROWS),
            "id": [f"{row:08d}" for row in range(ROWS)],
            "kind": ["single"] * (ROWS - 1) + ["composed"],
            "classes": [[name] for name in names],
            "background": ["snow" if row % 4 < 2 else "sand" for row in range(ROWS)],
        }
    )
    store.write_json("runs/night/settings.json", {})
    write_plan(store, "runs/night/plan.parquet", table.assign(phrases=table["classes"]))
    label = np.zeros((ROWS, 16, 16), np.uint8)
    image = np.zeros((ROWS, 16, 16, 3), np.uint8)
    for row, name in enumerate(names):
        label[row, 4:12, 4:12] = CLASSES.index(name)
        image[row, ..., 0] = 100 * label[row]
        image[row, ..., 2] = 200 if table["background"][row] == "snow" else 0
    shard = f"versions/{VERSION}/data/00000"
    write_shard(store, shard, {"image": image, "label": label}, table)
    meta = {"run": "night", "identity": "0123abcd" * 8, "classes": {"car": 1, "bus": 2}}
    publish_version(store, VERSION, shards=[shard], meta=meta)
    return store


def crown(store: Store, changes: Mapping[str, Any], name: str = "champion") -> None:
    meta = {"checkpoint": name, "version": "other-1", "manifest": "", "files": {}}
    store.write_json(f"checkpoints/{name}/meta.json", {**meta, "classes": CLASSES, **changes})
    measured = {"set": "squares", "fingerprint": "a" * 64, "miou": 0.5, "iou": {}}
    champion = {"checkpoint": name, "version": "other-1", "evaluation": measured}
    store.write_json("champions/00000001.json", champion)


def surveyed(store: Store) -> list[dict[str, Any]]:
    network = Segmenter(Halves(), {}, CLASSES)
    return survey_version(store, network, read_version(store, VERSION), EvaluateSettings())


def test_each_generated_object_is_measured(store: Store) -> None:
    objects = surveyed(store)
    assert [one["row"] for one in objects] == list(range(ROWS - 1))
    assert [one["of"] for one in objects] == ["bus", "car"] * 3 + ["bus"]
    missing = [one["missing"] for one in objects]
    assert missing == pytest.approx([0.5, 0.5, 0, 0, 0.5, 0.5, 0])
    assert all(0 <= one["uncertain"] < 0.01 for one in objects)


def test_the_background_on_which_objects_are_missed_stands_out(store: Store) -> None:
    store.write_json("runs/night/survey.json", {"checkpoint": "c", "objects": surveyed(store)})
    outcomes = read_outcomes(store, "night")
    snow, sand = (outcomes[Choice("backgrounds", name)] for name in ("snow", "sand"))
    assert (snow.measured, sand.measured) == (4, 3)
    assert snow.missing / 4 == pytest.approx((2 + 1.5) / 2) and sand.missing == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"version": VERSION},
        {"versions": [{"name": VERSION, "digest": ""}]},
        {"version": f"{VERSION}-without-00000000"},
        {"classes": ["background", "car", "tree"]},
        {"start": {"checkpoint": "deleted", "sha256": ""}},
        {"start": {"checkpoint": "first", "sha256": ""}},
    ],
)
def test_a_champion_that_may_have_seen_the_night_surveys_nothing(
    settings: Settings, store: Store, changes: dict[str, Any]
) -> None:
    crown(store, {"version": VERSION}, "first")
    crown(store, changes)
    assert not survey.fn(settings, VERSION)
    assert not store.exists("runs/night/survey.json")


def test_without_a_champion_or_a_run_there_is_no_survey(settings: Settings, store: Store) -> None:
    assert not survey.fn(settings, VERSION)
    crown(store, {})
    store.delete("runs/night")
    assert not survey.fn(settings, VERSION)
    assert not store.exists("runs/night")


def test_a_survey_is_made_once(settings: Settings, store: Store) -> None:
    store.write_json("runs/night/survey.json", {"checkpoint": "c", "objects": []})
    crown(store, {})
    assert survey.fn(settings, VERSION)
    assert store.read_json("runs/night/survey.json")["checkpoint"] == "c"


def test_a_shard_without_some_rows_is_named(store: Store) -> None:
    path = f"versions/{VERSION}/data/00000.parquet"
    store.write_table("shorter.parquet", store.read_table(path).head(3))
    store.place.put(path, [store.read_bytes("shorter.parquet")])
    with pytest.raises(StoreError, match=r"00000\.parquet has 3 rows for 8 samples"):
        surveyed(store)
