"""Compose: scenes of a run whose generator and labels are the drawn world's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from infra.settings import Settings
from infra.store import MissingError, Store, read_shard, write_shard
from models.embedded import world
from tasks.compose.scenes import compose, compose_row
from tasks.compose.sources import Pool, Rows, Source
from tasks.plan.rows import make_plan
from tasks.plan.table import stored_plan
from tasks.select.select import select

IDS = {entry["name"]: entry["id"] for entry in world.vocabulary()["classes"]}
IMAGES = 60
COMPOSED = 12
Composed = tuple[Settings, Store, pd.DataFrame, dict[str, np.ndarray], pd.DataFrame]


def settings_at(root: Path, shard_size: int = 20) -> Settings:
    plan = {"images": IMAGES, "multi": 0.1, "negatives": 0.2, "shard_size": shard_size}
    return Settings(
        store={"url": str(root)},
        plan=plan,
        compose={"images": COMPOSED},
        classes=("car", "mug", "ball"),
    )


def draw_run(
    settings: Settings, spoilt: frozenset[int] = frozenset()
) -> tuple[Store, pd.DataFrame]:
    """A store with plan, images and exact labels; rows in `spoilt` have confidence 0."""
    store = Store.open(settings.store.url)
    plan = make_plan(settings, settings.load_vocabulary())
    run = f"runs/{settings.name}"
    store.write_bytes(f"{run}/plan.parquet", stored_plan([plan]))
    for shard, rows in plan[plan["kind"] != "composed"].groupby("shard"):
        drawings = [draw_row(row) for row in rows.to_dict("records")]
        image, label = (
            np.stack([getattr(d, field) for d in drawings]) for field in ("image", "label")
        )
        table = rows[["row", "id"]]
        finite = np.ones(len(rows), np.bool_)
        write_shard(
            store, f"{run}/synthesize/{shard:05d}", {"image": image, "finite": finite}, table
        )
        confidence = [0.0 if row in spoilt else 0.8 + row / 1000 for row in rows["row"]]
        scores = table.assign(confidence=confidence, consistency=0.8)
        write_shard(store, f"{run}/refine/{shard:05d}", {"label": label}, scores)
        select.shard(settings, int(shard))
    return store, plan


def draw_row(row: dict[str, Any]) -> world.Drawing:
    return world.draw_scene(
        world.sample_scene(np.random.default_rng(row["seed"]), row["classes"], row["background"])
    )


def compose_all(
    settings: Settings, plan: pd.DataFrame
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Arrays and table of all composed rows, in the plan's order."""
    store = Store.open(settings.store.url)
    parts = []
    for shard in plan.loc[plan["kind"] == "composed", "shard"].unique():
        compose.shard(settings, int(shard))
        parts.append(read_shard(store, f"runs/{settings.name}/compose/{shard:05d}"))
    arrays = {
        field: np.concatenate([part[0][field] for part in parts])
        for field in ("image", "label", "instance")
    }
    return arrays, pd.concat([part[1] for part in parts], ignore_index=True)


@pytest.fixture(scope="module")
def composed_run(tmp_path_factory: pytest.TempPathFactory) -> Composed:
    settings = settings_at(tmp_path_factory.mktemp("store"))
    store, plan = draw_run(settings)
    arrays, table = compose_all(settings, plan)
    return settings, store, plan, arrays, table


def test_every_composed_row_becomes_a_scene_of_its_classes(composed_run: Composed) -> None:
    _, _, plan, arrays, table = composed_run
    composed = plan[plan["kind"] == "composed"]
    assert list(table["id"]) == list(composed["id"])
    present = [
        {IDS[name] for name in names} <= set(np.unique(label))
        for names, label in zip(composed["classes"], arrays["label"], strict=True)
    ]
    assert np.mean(present) > 0.9
    assert arrays["image"].shape == (COMPOSED, 128, 128, 3)
    assert ((arrays["instance"] > 0) == (arrays["label"] > 0)).all()


def test_scenes_and_mosaics_both_occur(composed_run: Composed) -> None:
    layouts = set(composed_run[-1]["layout"])
    assert "scene" in layouts
    assert layouts & {"1x2", "2x1", "2x2", "3x3"}


def test_each_object_records_its_source(composed_run: Composed) -> None:
    _, _, plan, arrays, table = composed_run
    class_of = {row["id"]: row["classes"] for row in plan.to_dict("records")}
    for index, row in table[table["layout"] == "scene"].iterrows():
        for thing in json.loads(row["objects"]):
            assert class_of[thing["source"]] == [
                name for name, value in IDS.items() if value == thing["class_id"]
            ]
            assert (arrays["instance"][index] == thing["instance"]).any()
            assert thing["visible"] >= 0.6


def test_confidence_is_that_of_the_worst_source_with_objects(composed_run: Composed) -> None:
    _, _, plan, _, table = composed_run
    single = set(plan.loc[plan["kind"] == "single", "row"])
    for row in table.to_dict("records"):
        assert row["confidence"] == min(
            0.8 + source / 1000 for source in row["sources"] if source in single
        )


def test_the_shard_size_changes_no_scene(composed_run: Composed, tmp_path: Path) -> None:
    _, _, _, arrays, table = composed_run
    settings = settings_at(tmp_path, shard_size=7)
    _, plan = draw_run(settings)
    again, again_table = compose_all(settings, plan)
    assert all(np.array_equal(arrays[field], again[field]) for field in arrays)
    assert table.to_dict("records") == again_table.to_dict("records")


def test_a_rejected_source_is_replaced_by_one_of_its_class(
    composed_run: Composed, tmp_path: Path
) -> None:
    *_, table = composed_run
    spoilt = table["sources"].iloc[0][-1]
    settings = settings_at(tmp_path)
    _, plan = draw_run(settings, frozenset([spoilt]))
    _, again = compose_all(settings, plan)
    assert all(spoilt not in sources for sources in again["sources"])
    assert len(again["sources"].iloc[0]) >= 2
    untouched = [spoilt not in sources for sources in table["sources"]]
    assert list(again.loc[untouched, "objects"]) == list(table.loc[untouched, "objects"])


def test_most_scenes_are_kept_and_one_without_good_sources_is_not(
    composed_run: Composed, tmp_path: Path
) -> None:
    settings, _, plan, _, _ = composed_run
    shard = int(plan["shard"].max())
    assert select.shard(settings, shard).stats["kept"] >= 0.8 * COMPOSED
    hopeless = settings_at(tmp_path)
    draw_run(hopeless, frozenset(range(IMAGES)))
    compose.shard(hopeless, shard)
    assert select.shard(hopeless, shard).stats == {"kept": 0, "rejected": {"black": COMPOSED}}


def test_a_finished_shard_is_not_made_again_and_an_unselected_source_stops_it(
    composed_run: Composed, tmp_path: Path
) -> None:
    settings, store, plan, _, _ = composed_run
    shard = int(plan["shard"].max())
    first = compose.shard(settings, shard)
    assert compose.shard(settings, shard) == first
    unselected = settings_at(tmp_path)
    store, _ = draw_run(unselected)
    store.delete("runs/nightly/select")
    with pytest.raises(MissingError):
        compose.shard(unselected, shard)


def test_labels_that_noise_learning_filtered_are_the_ones_pasted(
    composed_run: Composed, tmp_path: Path
) -> None:
    settings = settings_at(tmp_path)
    store, plan = draw_run(settings)
    for shard in plan.loc[plan["kind"] != "composed", "shard"].unique():
        path = f"runs/nightly/select/{shard:05d}"
        labels = read_shard(store, path.replace("select", "refine"), ["label"])[0]["label"]
        verdicts = store.read_table(f"{path}.parquet")
        store.delete(f"{path}.json")
        write_shard(
            store, path, {"label": np.where(labels == IDS["mug"], np.uint8(255), labels)}, verdicts
        )
    arrays, _ = compose_all(settings, plan)
    assert (composed_run[3]["label"] == IDS["mug"]).any()
    assert not (arrays["label"] == IDS["mug"]).any()
    assert (arrays["label"] == IDS["car"]).any()


def test_a_row_that_never_splices_is_a_scene_and_one_that_always_does_a_mosaic() -> None:
    plan = make_plan(settings_at(Path("unused")), settings_at(Path("unused")).load_vocabulary())
    drawings = {
        row["row"]: draw_row(row) for row in plan[plan["kind"] != "composed"].to_dict("records")
    }
    rows = Rows([pa.Table.from_pandas(plan)], settings_at(Path("unused")).load_vocabulary().names)
    pool = Pool(
        rows, lambda row: Source(row, str(row), drawings[row].image, drawings[row].label, 1.0, 1.0)
    )
    row = plan[plan["kind"] == "composed"].iloc[0]
    scene, mosaic = (
        compose_row(row["sources"], 5, pool, IDS, (128, 128), spliced=s) for s in (0.0, 1.0)
    )
    assert scene.layout == "scene"
    assert "x" in mosaic.layout
    assert len(mosaic.objects) == np.prod([int(n) for n in mosaic.layout.split("x")])
