"""A row's label map depends on the run's seed and the row's own, and has the ids of its classes."""

from pathlib import Path

import numpy as np
import pytest

from infra.settings import SettingsError
from infra.store import Store
from models.scenes import instance_map
from tasks.maps.layouts import Layouts, open_layouts
from tasks.maps.sources import FolderMaps, VersionMaps
from tests.tasks.drawing import CLASSES, COUNT, IDS, label_map, publish_maps, settings, voc_maps


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    publish_maps(store, instances=True)
    return store


def layouts_of(*labels: np.ndarray, folder: Path, **options: object) -> Layouts:
    maps = FolderMaps(voc_maps(folder, list(labels)), CLASSES)
    return Layouts(maps, IDS, 0, **options)  # type: ignore[arg-type]


def test_given_maps_repeat_in_an_order_of_the_run_s_seed(store: Store) -> None:
    maps = VersionMaps(store, "maps")
    first, second = Layouts(maps, IDS, 0), Layouts(maps, IDS, 1)
    order = [first.numbers(row, seed=row) for row in range(2 * COUNT)]
    assert order[:COUNT] == order[COUNT:]
    assert sorted(order[:COUNT]) == [[number] for number in range(COUNT)]
    assert order != [second.numbers(row, seed=row) for row in range(2 * COUNT)]


def test_a_given_map_stays_as_it_is_with_255_and_instances(store: Store) -> None:
    layouts = Layouts(VersionMaps(store, "maps"), IDS, 0)
    label, instance = layouts.make([4], seed=3)
    np.testing.assert_array_equal(label, label_map(4))
    assert label[0, 0] == 255 and layouts.classes(label) == ["car"]
    assert instance is not None and set(np.unique(instance)) == {0, 9}
    label, instance = layouts.make([2], seed=3)  # of a shard without instances
    np.testing.assert_array_equal(instance, instance_map(label))


def test_maps_of_a_folder_have_no_instances(tmp_path: Path) -> None:
    layouts = layouts_of(label_map(0), folder=tmp_path / "voc")
    assert layouts.make([0], seed=3).instance is None and not layouts.has_instances


def test_an_id_that_no_class_has_is_refused(tmp_path: Path) -> None:
    maps = FolderMaps(voc_maps(tmp_path / "voc", [label_map(1)]), CLASSES)
    layouts = Layouts(maps, {"car": 1}, 0)  # of a vocabulary without buses
    with pytest.raises(SettingsError, match=r"map0\.png holds id 2, .* \(1 car; .*correct the map"):
        layouts.make([0], seed=0)


def test_maps_of_two_sizes_need_a_size_to_which_they_are_resized(tmp_path: Path) -> None:
    labels = label_map(0), label_map(1, side=80)
    layouts = layouts_of(*labels, folder=tmp_path / "voc")
    with pytest.raises(SettingsError, match=r"80x80 .* 64x64; set generator.height and"):
        layouts.make([1], seed=0)
    resized = Layouts(layouts.source, IDS, 0, size=(32, 40))
    for number, label in enumerate(labels):
        found = resized.make([number], seed=0).label
        assert found.shape == resized.size == (32, 40)
        assert set(np.unique(found)) <= set(np.unique(label))  # nothing between two ids
        np.testing.assert_allclose(np.mean(found == 1), np.mean(label == 1), atol=0.02)
        np.testing.assert_allclose(np.mean(found == 2), np.mean(label == 2), atol=0.02)


def test_composed_layouts_add_objects_of_other_maps_by_the_row_s_seed(store: Store) -> None:
    layouts = Layouts(VersionMaps(store, "maps"), IDS, 0, composed=True)
    empty = label_map(3)
    found = [layouts.make([3, 1, 0], seed) for seed in range(6)]
    for label, instance in found:
        assert layouts.classes(label) == ["car", "bus"] and label[0, 0] == 255
        assert instance is not None and set(np.unique(instance)) == {0, 1, 2, 255}
        assert np.isin(label[empty == 0], [0, 1, 2, 255]).all()
    assert len({label.tobytes() for label, _ in found}) == 6  # at six places
    np.testing.assert_array_equal(layouts.make([3, 1, 0], 5).label, found[5].label)


def test_composed_layouts_take_objects_from_maps_that_have_some(store: Store) -> None:
    layouts = Layouts(VersionMaps(store, "maps"), IDS, 0, composed=True)
    rows = [layouts.numbers(row, seed=row) for row in range(40)]
    assert {len(numbers) for numbers in rows} == {2, 3}
    assert all(3 not in others for _, *others in rows)  # map 3 is empty
    assert {3} < {first for first, *_ in rows}


def test_a_started_run_keeps_to_the_maps_it_started_with(tmp_path: Path) -> None:
    voc = voc_maps(tmp_path / "voc")
    store = Store.open(str(tmp_path / "store"))
    chosen = settings(store, generator={"labels": str(voc)})
    digest = open_layouts(store, chosen).source.digest
    started = settings(store, generator={"labels": str(voc), "labels_digest": digest})
    assert open_layouts(store, started).source is open_layouts(store, started).source
    other = settings(store, generator={"labels": str(voc), "labels_digest": "ab12"})
    with pytest.raises(SettingsError, match=r"labels_digest is ab12, but the digest of .* remove"):
        open_layouts(store, other)
