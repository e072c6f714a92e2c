"""Publishing a run of many shards: what it reads to find their paths, and how it counts them."""

from pathlib import Path

import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import Store, write_shard
from infra.text import as_markdown
from tasks.publish.card import Kept, dataset_card
from tasks.publish.samples import published_paths, version_of

SETTINGS = Settings()
DATA = f"versions/{version_of(SETTINGS)}/data"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A version of three shards before its publication, without the run that made them."""
    store = Store.open(str(tmp_path / "store"))
    for shard in range(3):
        write_shard(store, f"{DATA}/{shard:05d}-0123abcd", {}, pd.DataFrame({"id": [str(shard)]}))
    return store


def test_one_listing_finds_the_shards_of_a_version(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "read_bytes", lambda store, path: pytest.fail(f"{path} is read"))
    paths = published_paths(store, SETTINGS.name, version_of(SETTINGS), [0, 1, 2])
    assert paths == [f"{DATA}/{shard:05d}-0123abcd" for shard in range(3)]


def test_of_a_shard_stored_with_two_contents_the_one_of_the_run_counts(
    store: Store,
) -> None:
    write_shard(store, "runs/nightly/select/00001", {}, pd.DataFrame({"id": ["1"]}))
    (alone,) = published_paths(store, SETTINGS.name, "elsewhere", [1])
    name = alone.rpartition("/")[2]
    write_shard(store, f"{DATA}/{name}", {}, pd.DataFrame({"id": ["1"]}))
    found = published_paths(store, SETTINGS.name, version_of(SETTINGS), [0, 1])
    assert found == [f"{DATA}/00000-0123abcd", f"{DATA}/{name}"]


def test_what_was_kept_is_counted_shard_by_shard_as_if_in_one_table() -> None:
    table = pd.DataFrame(
        {"kind": ["single", "multi", "single"], "classes": [["car"], ["car", "tree"], ["bus"]]}
    )
    assert Kept.of(table[:2]) + Kept.of(table[2:]) == Kept.of(table)
    assert (Kept.of(table).samples, Kept.of(table).classes["car"]) == (3, 2)


def test_the_card_says_who_made_the_labels() -> None:
    boxes = {
        "kind": "grounded-sam2",
        "path": "/models/sam2",
        "detector": "/models/<dino>",
        "digest": "ab12",
    }
    labelled = Settings(refine={"method": "labeller", "labellers": [boxes]})
    card, usual = (dataset_card("v", each, Kept(), 3) for each in (labelled, Settings()))
    folders = f"{as_markdown('/models/sam2')} and {as_markdown('/models/<dino>')}"
    assert f"found by the labeller grounded-sam2 in {folders},\ndigest ab12; its licence" in card
    assert "attention" not in card and "<dino>" not in card
    assert "read from the generator's attention. Nobody has checked them." in usual
