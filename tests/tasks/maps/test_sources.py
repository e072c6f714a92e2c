"""Label maps come from a version or a folder, with a digest of their contents."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.settings import SettingsError
from infra.store import CorruptShardError, Store, StoreError, publish_version, write_shard
from infra.voc import VocError
from tasks.maps.sources import FolderMaps, VersionMaps, open_source
from tests.tasks.drawing import CLASSES, COUNT, label_map, publish_maps, voc_maps


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_a_version_s_maps_are_those_of_its_shards_in_order(store: Store) -> None:
    publish_maps(store, instances=True)
    maps = VersionMaps(store, "maps")
    assert (len(maps), maps.classes, maps.has_instances) == (COUNT, CLASSES, True)
    for number in range(COUNT):
        np.testing.assert_array_equal(maps.read(number).label, label_map(number))
    assert maps.read(2).instance is None
    instance = maps.read(4).instance
    assert instance is not None and set(np.unique(instance)) == {0, 9}
    assert maps.name(4) == "versions/maps/data/00001, sample map 4"


def test_a_folder_s_maps_need_no_photographs(tmp_path: Path) -> None:
    maps = FolderMaps(voc_maps(tmp_path / "voc"), CLASSES)
    assert (len(maps), maps.classes, maps.has_instances) == (COUNT, CLASSES, False)
    np.testing.assert_array_equal(maps.read(2).label, label_map(2))
    assert maps.name(2).endswith("SegmentationClass/map2.png")


def test_other_maps_or_class_names_have_another_digest(tmp_path: Path) -> None:
    labels = [label_map(number) for number in range(3)]
    folders = [
        voc_maps(tmp_path / "a", labels),
        voc_maps(tmp_path / "b", labels),
        voc_maps(tmp_path / "c", [labels[1], labels[0], labels[2]]),
        voc_maps(tmp_path / "d", labels, classes="background\nbus\ncar"),
    ]
    same, again, *others = (FolderMaps(folder, CLASSES).digest for folder in folders)
    assert same == again and len({same, *others}) == 3


def test_a_shard_that_was_not_published_is_refused(store: Store) -> None:
    publish_maps(store)
    publish_maps(store, "other", labels=[np.zeros((64, 64), np.uint8)] * 5)
    folder = Path(store.url, "versions")
    for path in (folder / "maps/data").glob("00000*"):
        (folder / "other/data" / path.name).rename(folder / f"aside{path.name}")
        path.rename(folder / "other/data" / path.name)
    with pytest.raises(CorruptShardError, match=r"other/data/00000 is not the shard"):
        VersionMaps(store, "other").read(0)


def test_a_shard_without_label_maps_is_refused(store: Store) -> None:
    path = "versions/plain/data/00000"
    image = np.zeros((1, 4, 4, 3), np.uint8)
    write_shard(store, path, {"image": image}, pd.DataFrame({"id": ["a"]}))
    publish_version(store, "plain", shards=[path], meta={"run": "r", "classes": {"car": 1}})
    with pytest.raises(StoreError, match="has no label maps"):
        VersionMaps(store, "plain").read(0)


def test_a_name_is_a_version_and_a_path_a_folder(store: Store, tmp_path: Path) -> None:
    publish_maps(store)
    voc_maps(tmp_path / "voc")
    assert isinstance(open_source(store, "maps", CLASSES), VersionMaps)
    assert isinstance(open_source(store, str(tmp_path / "voc"), CLASSES), FolderMaps)
    with pytest.raises(SettingsError, match=r"no version 'voc' .* there are: maps; .* \./voc"):
        open_source(store, "voc", CLASSES)
    with pytest.raises(VocError, match=r"train\.txt is missing"):
        open_source(store, str(tmp_path), CLASSES)


def test_other_classes_than_the_vocabulary_s_are_refused(store: Store, tmp_path: Path) -> None:
    publish_maps(store, ids={"bus": 1, "car": 2})
    with pytest.raises(SettingsError, match=r"has the classes background, bus, car, and the voc"):
        open_source(store, "maps", CLASSES)
    voc = voc_maps(tmp_path / "voc", classes="background\ncar\nbus\ntree")
    with pytest.raises(SettingsError, match=r"has the classes background, car, bus, tree"):
        open_source(store, str(voc), CLASSES)
