"""Which versions a training takes, and what their labels mean."""

from pathlib import Path

import pytest

from infra.settings import Settings, SettingsError
from infra.store import MissingError, Store, StoreError, list_versions, publish_version, write_shard
from tasks.train.versions import Chosen, chosen_versions, label_table
from tests.tasks.segmenting import publish_squares

NIGHTS = ("a-1", "b-2", "c-3", "d-4")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four versions, the newest last; that of the second night is of other classes."""
    store = Store.open(str(tmp_path / "store"))
    for number, name in enumerate(NIGHTS):
        classes = {"tree": 1, "cloud": 2} if name == "b-2" else None
        publish_squares(store, name, count=2, run=name[0], first=2 * number, classes=classes)
    return store


def names(store: Store, chosen: Chosen, version: str = "d-4") -> list[str]:
    return [each.version for each in chosen_versions(store, version, chosen)]


def test_the_newest_is_the_given_one_alone(store: Store) -> None:
    assert names(store, "newest") == names(store, 1) == ["d-4"]
    assert names(store, "newest", "a-1") == ["a-1"]


def test_a_number_and_all_take_what_was_published_before_and_shares_classes(store: Store) -> None:
    assert names(store, 2) == ["d-4", "c-3"]
    assert names(store, 3) == names(store, 9) == names(store, "all") == ["d-4", "c-3", "a-1"]
    assert names(store, "all", "c-3") == ["c-3", "a-1"]


def test_later_versions_change_nothing(store: Store) -> None:
    before = chosen_versions(store, "c-3", "all")
    publish_squares(store, "e-5", count=2, run="e", first=20)
    assert chosen_versions(store, "c-3", "all") == before


def test_named_versions_come_along_in_one_order(store: Store) -> None:
    for chosen in (("a-1", "c-3"), ("c-3", "d-4", "a-1")):
        assert names(store, chosen) == ["d-4", "c-3", "a-1"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("d-4",), "'d-4', which was published after 'c-3'; train on 'd-4', or leave it out"),
        (("b-2",), "'b-2', which has no class in common with 'c-3': tree, cloud and car, bus"),
    ],
)
def test_named_versions_that_do_not_fit_are_refused(
    store: Store, chosen: Chosen, message: str
) -> None:
    with pytest.raises(StoreError, match=f"train.versions names {message}"):
        chosen_versions(store, "c-3", chosen)


def test_versions_that_are_not_there_are_refused(store: Store) -> None:
    store.delete("versions/a-1")
    with pytest.raises(MissingError, match=r"no version 'a-1' is published .* there are: b-2, c-3"):
        chosen_versions(store, "d-4", ("a-1",))
    assert names(store, "all") == ["d-4", "c-3"]


def test_a_damaged_or_exchanged_version_is_never_left_out_silently(store: Store) -> None:
    path = "versions/a-1/manifest.json"
    intact = store.read_bytes(path)
    store.place.put(path, [intact[:-80]])
    with pytest.raises(StoreError, match=r"a-1/manifest\.json"):
        chosen_versions(store, "d-4", "all")
    store.delete(path)
    store.delete("publications")
    store.delete("versions/a-1/data")
    other = Store.open(f"{store.url}-2")
    publish_squares(other, "a-1", count=4, run="a")
    exchanged = other.read_bytes(path)
    publish_squares(store, "a-1", count=2, run="a")
    store.place.put(path, [exchanged])
    with pytest.raises(StoreError, match="is not the manifest that was published"):
        chosen_versions(store, "d-4", ("a-1",))


def test_a_version_without_classes_is_refused(store: Store) -> None:
    path = "versions/raw-1/data/00000"
    shard = store.read_table("versions/a-1/data/00000.parquet")
    write_shard(store, path, {}, shard)
    publish_version(store, "raw-1", shards=[path], meta={})
    publish_squares(store, "e-5", count=2, run="e", first=20)
    with pytest.raises(StoreError, match=r"manifest of version 'raw-1': meta\.run"):
        chosen_versions(store, "e-5", "all")
    assert len(list_versions(store)) == 6


def test_labels_are_translated_by_name() -> None:
    table = label_table({"bus": 1, "car": 2}, {"car": 1, "bus": 2})
    assert table[[0, 1, 2, 255]].tolist() == [0, 2, 1, 255]


def test_a_class_that_only_the_older_version_has_is_ignored_and_never_background() -> None:
    table = label_table({"car": 1, "van": 2}, {"car": 1})
    assert table[[0, 1, 2, 255]].tolist() == [0, 1, 255, 255]


def test_background_that_may_hide_a_newer_class_is_ignored() -> None:
    table = label_table({"car": 1}, {"car": 1, "van": 2})
    assert table[[0, 1, 255]].tolist() == [255, 1, 255]


@pytest.mark.parametrize(
    ("text", "value"),
    [("newest", "newest"), ("all", "all"), ("5", 5), ("a-1", ("a-1",)), ("a-1, b", ("a-1", "b"))],
)
def test_flags_and_environment_give_versions_as_text(
    text: str, value: Chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_flags=[f"train.versions={text}"])
    assert settings.train.versions == value
    assert Settings(**settings.resolved()) == settings
    monkeypatch.setenv("SEGMINT_TRAIN__VERSIONS", text)
    assert Settings().train.versions == value


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "", "a,,b", [], ["a", "a"], [1], None])
def test_other_values_of_versions_are_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"train\.versions"):
        Settings(train={"versions": value})
