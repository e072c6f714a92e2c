"""What garbage collection deletes, and what it keeps."""

import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from infra.settings import RetentionSettings, Settings
from infra.store import (
    MissingError,
    Store,
    StoreError,
    list_versions,
    publish_version,
    verify_version,
    write_shard,
)
from tasks.gc.collect import Found, collect, find_garbage
from tasks.gc.needed import DAY
from tasks.gc.ownership import delete_own
from tasks.gc.pins import pin, unpin
from tests.tasks.segmenting import publish_squares

NONE_KEPT = RetentionSettings(versions=1, days=0, run_days=0, abandoned_days=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Versions a, b, c, the newest last.

    Each has its run's shards, a checkpoint and a network of noise learning.
    """
    store = Store.open(str(tmp_path / "store"))
    for name in "abc":
        publish_squares(store, f"{name}-0123abcd", run=name, identity="0123abcd" * 8)
        for path in ("plan.parquet", "report.html", "synthesize/00000.json", "select/00000.json"):
            store.write_bytes(f"runs/{name}/{path}", b"x")
        store.write_json(f"checkpoints/{name}-0123abcd-fold-0/meta.json", {})
        store.write_json(f"checkpoints/{name}-0123abcd-aaaaaaaa/meta.json", {})
    return store


def paths(store: Store, retention: RetentionSettings = NONE_KEPT, after: float = 60.0) -> set[str]:
    return {each.path for each in find_garbage(store, retention, time.time() + after).garbage}


def crown(store: Store, version: str, *before: str) -> None:
    measured = {"set": "squares", "fingerprint": "a" * 64, "miou": 0.5, "iou": {}}
    champion: dict[str, Any] = {
        "checkpoint": f"{version}-aaaaaaaa",
        "version": version,
        "before": list(before),
    }
    store.write_json("champions/00000001.json", {**champion, "evaluation": measured})


def test_old_versions_go_with_their_checkpoints_and_the_newest_stays(store: Store) -> None:
    found = paths(store)
    assert found >= {
        "versions/a-0123abcd",
        "versions/b-0123abcd",
        "checkpoints/a-0123abcd-aaaaaaaa",
    }
    assert not {
        path for path in found if path in ("versions/c-0123abcd", "checkpoints/c-0123abcd-aaaaaaaa")
    }


def test_young_versions_stay(store: Store) -> None:
    month = RetentionSettings(versions=1, days=30, run_days=30)
    assert paths(store, month, after=29 * DAY) == set()
    assert {"versions/a-0123abcd", "versions/b-0123abcd"} <= paths(store, month, after=31 * DAY)


def test_the_champions_version_and_checkpoints_are_kept(store: Store) -> None:
    crown(store, "a-0123abcd", "b-0123abcd-aaaaaaaa")
    found = paths(store)
    assert "versions/b-0123abcd" in found
    assert not found & {
        "versions/a-0123abcd",
        "checkpoints/a-0123abcd-aaaaaaaa",
        "checkpoints/b-0123abcd-aaaaaaaa",
    }


def test_all_versions_that_the_champion_was_trained_on_are_kept(store: Store) -> None:
    crown(store, "c-0123abcd")
    listed = [{"name": f"{name}-0123abcd", "digest": "0" * 64} for name in "ca"]
    store.write_json("checkpoints/c-0123abcd-aaaaaaaa/meta.json", {"versions": listed})
    found = paths(store)
    assert "versions/b-0123abcd" in found
    assert not found & {"versions/a-0123abcd", "versions/c-0123abcd"}


def test_nothing_is_deleted_while_it_is_unknown_what_the_champion_needs(store: Store) -> None:
    crown(store, "c-0123abcd")
    store.write_json("checkpoints/c-0123abcd-aaaaaaaa/meta.json", {"versions": "a-0123abcd"})
    with pytest.raises(StoreError, match=r"c-0123abcd-aaaaaaaa/meta\.json is not what belongs"):
        paths(store)


def test_all_versions_that_are_trained_on_stay(store: Store) -> None:
    listed = [{"name": f"{name}-0123abcd", "digest": "0" * 64} for name in "ba"]
    path = "checkpoints/b-0123abcd-bbbbbbbb/versions.json"
    store.write_json(path, {"versions": listed})
    both = {"versions/a-0123abcd", "versions/b-0123abcd"}
    assert not paths(store) & both
    assert both <= paths(store, after=2 * DAY)
    assert "checkpoints/b-0123abcd-bbbbbbbb" in paths(store, after=2 * DAY)


def test_a_pinned_version_stays_until_it_is_unpinned(store: Store) -> None:
    pin(store, "a-0123abcd", "the paper's figures")
    assert "versions/a-0123abcd" not in paths(store)
    unpin(store, "a-0123abcd")
    assert "versions/a-0123abcd" in paths(store)
    with pytest.raises(MissingError, match="no version 'never'"):
        pin(store, "never", "")


def test_a_version_that_is_trained_on_stays(store: Store) -> None:
    store.write_bytes("checkpoints/a-0123abcd-bbbbbbbb/snapshot.safetensors", b"x")
    assert "versions/a-0123abcd" not in paths(store)
    assert "versions/a-0123abcd" in paths(store, after=2 * DAY)


def test_a_published_run_keeps_its_plan_and_report(store: Store) -> None:
    found = {path for path in paths(store) if path.startswith("runs/")}
    assert found == {f"runs/{name}/{stage}" for name in "abc" for stage in ("synthesize", "select")}
    assert {f"checkpoints/{name}-0123abcd-fold-0" for name in "abc"} <= paths(store)


def test_a_partly_published_run_keeps_its_shards(store: Store) -> None:
    shard = "versions/d-0123abcd-without-00000000/data/00000"
    write_shard(store, shard, {}, pd.DataFrame({"id": ["x"]}))
    meta = {"run": "d", "classes": {"car": 1}, "without": [1]}
    publish_version(store, "d-0123abcd-without-00000000", shards=[shard], meta=meta)
    store.write_bytes("runs/d/synthesize/00000.json", b"x")
    assert not {path for path in paths(store, after=DAY / 2) if path.startswith("runs/d")}
    assert "runs/d" in paths(store, after=2 * DAY)


def test_an_unpublished_run_is_deleted_only_if_nothing_was_written_for_long(store: Store) -> None:
    store.write_bytes("runs/night/synthesize/00000.json", b"x")
    store.write_bytes("versions/night-ffffffff/data/00000.json", b"x")
    unpublished = {"runs/night", "versions/night-ffffffff"}
    assert not paths(store, after=DAY / 2) & unpublished
    assert unpublished <= paths(store, after=2 * DAY)
    old = time.time() - 5 * DAY
    os.utime(Path(store.url, "runs/night/synthesize/00000.json"), (old, old))
    store.write_bytes("runs/night/synthesize/00001.json", b"x")  # somebody works on it again
    assert "runs/night" not in paths(store, after=0)


def test_what_an_unfinished_run_draws_stays(store: Store) -> None:
    flow = {"path": "semflow:a-0123abcd-aaaaaaaa", "labels": "b-0123abcd"}
    settings = Settings(name="night", generator=flow)
    digests = {"weights": "0" * 64, "labels_digest": "0" * 64}
    resolved = settings.generator.model_copy(update=digests)
    record = settings.model_copy(update={"generator": resolved}).record()
    store.write_json("runs/night/settings.json", record)
    drawn = {"versions/b-0123abcd", "checkpoints/a-0123abcd-aaaaaaaa"}
    assert not paths(store) & drawn
    assert "versions/a-0123abcd" in paths(store)
    publish_squares(store, "night-0123abcd", run="night", identity="0123abcd" * 8)
    assert drawn <= paths(store)


def test_an_unlisted_version_with_a_damaged_manifest_is_kept(store: Store) -> None:
    store.place.put("versions/a-0123abcd/manifest.json", [b"{}"])
    assert "versions/a-0123abcd" not in paths(store, after=100 * DAY)


def test_a_comparison_goes_with_one_of_its_checkpoints(store: Store) -> None:
    for name, others in (("whole", ("a", "b")), ("broken", ("a", "gone"))):
        found = [{"checkpoint": f"{each}-0123abcd-aaaaaaaa"} for each in others]
        store.write_json(f"comparisons/{name}/comparison.json", {"contenders": found})
        store.write_bytes(f"comparisons/{name}/comparison.html", b"x")
    month = RetentionSettings(versions=1, days=30, run_days=30)
    assert paths(store, month, after=DAY) == {"comparisons/broken"}


def test_an_unfinished_comparison_is_kept_as_long_as_a_run(store: Store) -> None:
    store.write_json("comparisons/half/pace.json", {"steps": {"segformer": 3}})
    month = RetentionSettings(versions=3, run_days=99, abandoned_days=30)
    assert paths(store, month, after=29 * DAY) == set()
    assert "comparisons/half" in paths(store, month, after=31 * DAY)


def test_what_segmint_did_not_put_beside_a_comparison_stays(store: Store) -> None:
    store.write_json("comparisons/x/comparison.json", {"contenders": [{"checkpoint": "gone"}]})
    folder = Path(store.url) / "comparisons" / "x"
    (folder / "notes.txt").write_text("mine")
    (folder.parent / "foreign").mkdir()
    (folder.parent / "foreign" / "comparison.json").write_text("{}")
    found = find_garbage(store, NONE_KEPT, time.time() + 60)
    left = {each.path for each in found.left}
    assert {"comparisons/x/notes.txt", "comparisons/foreign"} <= left
    assert "comparisons/foreign" not in {each.path for each in found.garbage}


def test_collecting_leaves_the_rest_whole_and_finds_nothing_the_second_time(
    store: Store, tmp_path: Path
) -> None:
    crown(store, "a-0123abcd")
    retention = NONE_KEPT.model_dump()
    settings = Settings(store={"url": str(tmp_path / "store")}, retention=retention)
    told, left = collect.fn(settings, dry_run=True)
    assert told and not left and all(store.exists(garbage.path) for garbage in told)
    assert all(garbage.size > 0 and garbage.why for garbage in told)
    assert collect.fn(settings).garbage == told
    assert not any(store.exists(garbage.path) for garbage in told)
    assert collect.fn(settings) == Found([], [])
    assert [manifest.version for manifest in list_versions(store)] == ["a-0123abcd", "c-0123abcd"]
    for version in ("a-0123abcd", "c-0123abcd"):
        assert verify_version(store, version) == []


def test_a_half_deleted_version_is_not_a_version(store: Store) -> None:
    for garbage in find_garbage(store, NONE_KEPT, time.time() + 60).garbage:
        if garbage.path == "versions/a-0123abcd":
            store.delete(f"{garbage.path}/manifest.json")  # killed here
    assert "a-0123abcd" not in {manifest.version for manifest in list_versions(store)}
    left = [
        each
        for each in find_garbage(store, NONE_KEPT, time.time() + 2 * DAY).garbage
        if each.path.endswith("a-0123abcd")
    ]
    assert len(left) == 1
    delete_own(store, left[0].path)
    assert not store.exists("versions/a-0123abcd")
