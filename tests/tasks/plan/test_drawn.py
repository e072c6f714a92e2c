"""A plan of label maps: a row per image, each map as often as any other, each time another seed."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from infra.store import Store
from tasks.maps.layouts import open_layouts
from tasks.plan.prompts import PlanError
from tasks.plan.rows import make_plan, start_run
from tasks.plan.table import Plan, stored_plan
from tests.tasks.drawing import COUNT, label_map, publish_maps, settings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    publish_maps(store)
    return store


def planned(store: Store, **sections: Any) -> pd.DataFrame:
    chosen = settings(store, **sections)
    layouts = open_layouts(store, chosen)
    return make_plan(chosen, chosen.load_vocabulary(), layouts=layouts)


def test_maps_cycle_and_every_image_has_a_seed_of_its_own(store: Store) -> None:
    table = planned(store, plan={"images": 3 * COUNT})
    numbers = [number for sources in table["sources"] for number in sources]
    assert {numbers.count(number) for number in range(COUNT)} == {3}
    assert table["seed"].nunique() == 3 * COUNT
    assert set(table["prompt"]) == {""} and not table["phrases"].map(len).any()


def test_a_row_has_the_classes_and_the_kind_of_its_map(store: Store) -> None:
    shown = {
        number: (kind, classes)
        for [number], kind, classes in planned(store)[["sources", "kind", "classes"]].values
    }
    assert shown == {
        0: ("single", ["car"]),
        1: ("single", ["bus"]),
        2: ("multi", ["car", "bus"]),
        3: ("negative", []),
        4: ("single", ["car"]),
    }


def test_fewer_images_than_maps_are_of_different_maps_and_of_any_of_them(store: Store) -> None:
    chosen = [planned(store, seed=seed, plan={"images": 2})["sources"] for seed in range(9)]
    assert all(len(set(map(tuple, each))) == 2 for each in chosen)
    assert {number for each in chosen for [number] in each} == set(range(COUNT))


@pytest.mark.parametrize("layouts", ["given", "composed"])
def test_the_shard_size_changes_the_shard_only(store: Store, layouts: str) -> None:
    small, large = (
        planned(store, generator={"layouts": layouts}, plan={"shard_size": size}) for size in (1, 5)
    )
    pd.testing.assert_frame_equal(small.drop(columns="shard"), large.drop(columns="shard"))


def test_composed_layouts_show_the_classes_of_all_their_objects(store: Store) -> None:
    table = planned(store, plan={"images": 30}, generator={"layouts": "composed"})
    assert table["sources"].map(len).isin([2, 3]).all()
    maps = {0: {"car"}, 1: {"bus"}, 2: {"car", "bus"}, 3: set(), 4: {"car"}}
    for [first, *others], classes in zip(table["sources"], table["classes"], strict=True):
        assert maps[first] <= set(classes) <= maps[first].union(*(maps[n] for n in others))
    assert len(table[table["sources"].str[0] == 3]["classes"].explode().unique()) == 2


def test_layouts_of_which_none_can_be_composed_are_an_error(store: Store) -> None:
    publish_maps(store, "empty", labels=[label_map(3)] * 5)
    with pytest.raises(PlanError, match=r"no label map has an object .* set generator\.layouts"):
        planned(store, generator={"labels": "empty", "layouts": "composed"})


def test_scenes_are_planned_of_images_of_label_maps(store: Store) -> None:
    table = planned(store, plan={"images": 10}, compose={"images": 4})
    scenes = table[table["kind"] == "composed"]
    assert len(scenes) == 4 and set(scenes["prompt"]) == {""}
    for background, *objects in scenes["sources"]:
        assert table["kind"][background] == "negative"
        assert set(table["kind"][objects]) == {"single"}


def test_a_stored_row_without_a_label_map_is_of_no_plan(store: Store) -> None:
    chosen = settings(store)
    table = planned(store)
    table.at[3, "sources"] = []
    store.write_bytes("runs/night/plan.parquet", stored_plan([table]))
    with pytest.raises(PlanError, match=r"plan\.parquet: sources \[\] is of no plan of this run"):
        list(Plan(store, chosen).columns(["sources"]))


@pytest.mark.parametrize("sections", [{"compose": {"images": 2}}, {"plan": {"images": 30}}])
def test_a_stored_plan_of_maps_is_read_as_it_was_made(
    store: Store, sections: dict[str, Any]
) -> None:
    chosen = settings(store, **sections)
    chosen = start_run(store, chosen, layouts=open_layouts(store, chosen))
    plan = Plan(store, chosen)
    stored = pd.concat([plan.of_shard(shard) for shard in [*plan.generated, *plan.composed]])
    made = planned(store, **sections)
    pd.testing.assert_frame_equal(stored[made.columns], made)
