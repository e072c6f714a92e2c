"""What garbage collection meets in a folder that it shares, and must leave alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from infra.settings import RetentionSettings, Settings
from infra.store import Store, StoreError, Usage, publish_version, write_shard
from infra.store.folder import ABANDONED
from tasks.gc.collect import Found, collect, find_garbage
from tasks.gc.needed import DAY
from tasks.gc.ownership import delete_own
from testbed.swift import Bucket
from tests.tasks.segmenting import publish_squares

OLD = time.time() - 400 * DAY
RETENTION = {"versions": 1, "days": 0, "run_days": 0, "abandoned_days": 30}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in use: a published run and one that was abandoned long ago."""
    store = Store.open(str(tmp_path / "store"))
    publish_squares(store, "night-0123abcd", run="night", identity="0123abcd" * 8)
    for name in ("night", "gone"):
        for path in ("settings.json", "plan.parquet", "select/00000.json", "select/00000.parquet"):
            store.write_bytes(f"runs/{name}/{path}", b"x")
    return store


def planted(store: Store, *paths: str) -> None:
    """Write files as another program does."""
    for path in paths:
        file = Path(store.url, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"foreign")


def collected(store: Store) -> Found:
    """Collect with everything in the folder more than a year old."""
    for folder, _, names in os.walk(store.url):
        for name in names:
            os.utime(f"{folder}/{name}", (OLD, OLD), follow_symlinks=False)
    return collect.fn(Settings(store={"url": store.url}, retention=RETENTION))


def stays(found: Found) -> dict[str, str]:
    return {each.path: each.why for each in found.left}


TENSORBOARD = "runs/tensorboard-exp7/events.out.tfevents.1735689600.host.1.0"
FOREIGN = [
    TENSORBOARD,
    "runs/detect/train/weights/best.pt",  # YOLO
    "runs/detect/train/args.yaml",
    "runs/exp/settings.json",  # another program's, with a name of ours
    "runs/exp/select/00000.json",
    "runs/notes.txt",
    "runs/my run (2)/x",
    "runs/\x1b[31mred/x",
    "versions/1.0/app.bin",
    "versions/2.0/data/00000.json",
    "checkpoints/yolov8n.pt",
    "checkpoints/night-0123abcd/pytorch_model.bin",
]


def test_folders_of_other_programs_stay_and_are_named(store: Store) -> None:
    planted(store, *FOREIGN)
    found = collected(store)
    assert [each.path for each in found.garbage] == ["runs/night/select", "runs/gone"]
    assert all(Path(store.url, path).exists() for path in FOREIGN)
    why = stays(found)
    assert "it has no .segmint" in why["runs/tensorboard-exp7"]
    assert {"runs/detect", "runs/exp", "versions/1.0", "versions/2.0"} <= why.keys()
    assert "its name" in why["runs/my run (2)"]


def test_an_old_version_s_checkpoints_go_only_if_segmint_wrote_them(store: Store) -> None:
    publish_squares(store, "next-0123abcd", run="next")
    store.write_json("checkpoints/night-0123abcd-aaaaaaaa/meta.json", {})
    planted(store, "checkpoints/night-0123abcd-best/model.pt")
    planted(store, "checkpoints/night-0123abcd-aaaaaaaa/tensorboard/events")
    found = collected(store)
    assert not store.exists("versions/night-0123abcd")
    assert store.list("checkpoints/night-0123abcd-aaaaaaaa") == ["tensorboard"]
    assert store.exists("checkpoints/night-0123abcd-best/model.pt")
    assert {
        "checkpoints/night-0123abcd-best",
        "checkpoints/night-0123abcd-aaaaaaaa/tensorboard",
    } <= stays(found).keys()


def test_files_beside_those_of_an_abandoned_run_stay(store: Store) -> None:
    beside = ["runs/gone/tb/events", "runs/gone/select/thesis.docx", "runs/gone/notes.json"]
    planted(store, *beside, "runs/gone/movie.partial")
    found = collected(store)
    assert {each.name for each in Path(store.url, "runs/gone").iterdir()} == {
        "movie.partial",
        "notes.json",
        "select",
        "tb",
    }
    assert store.list("runs/gone/select") == ["thesis.docx"]
    assert {"runs/gone/notes.json", "runs/gone/select/thesis.docx", "runs/gone/tb"} <= stays(
        found
    ).keys()
    assert collected(store).garbage == []
    assert store.exists("runs/gone/tb/events")


def test_files_beside_those_of_an_old_version_stay(store: Store) -> None:
    publish_squares(store, "next-0123abcd", run="next")
    planted(store, "versions/night-0123abcd/paper.tex", "versions/night-0123abcd/data/labels.json")
    collected(store)
    assert store.list("versions/night-0123abcd") == ["data", "paper.tex"]
    assert store.list("versions/night-0123abcd/data") == ["labels.json"]


def test_a_version_with_names_of_its_publisher_s_own_goes_whole(store: Store) -> None:
    shard = "versions/own/data/train"
    write_shard(store, shard, {}, pd.DataFrame({"id": ["x"]}))
    publish_version(store, "own", shards=[shard], meta={}, files={"about.txt": b"x"})
    publish_squares(store, "next-0123abcd", run="next")
    assert stays(collected(store)) == {}
    assert not store.exists("versions/own")


def test_a_run_named_by_another_s_manifest_is_not_touched(store: Store) -> None:
    planted(store, "runs/detect/select/00000.json", "runs/detect/refine/x")
    publish_squares(store, "forged-0123abcd", run="detect")
    found = collected(store)
    assert store.exists("runs/detect/select/00000.json")
    assert {"runs/detect/select", "runs/detect/refine"} <= stays(found).keys()


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    home = Store.open(str(tmp_path / "home"))
    planted(home, TENSORBOARD, "versions/1.0/app.bin", ".ssh/id_ed25519")
    with pytest.raises(StoreError, match=r"no \.segmint, so it is no store"):
        collected(home)
    assert home.exists(TENSORBOARD) and home.exists("versions/1.0/app.bin")
    empty = Store.open(str(tmp_path / "new"))
    assert collected(empty) == Found([], [])


def test_a_home_directory_as_store_loses_nothing_but_segmint_s_own(tmp_path: Path) -> None:
    home = Store.open(str(tmp_path / "home"))
    files = [TENSORBOARD, ".ssh/id_ed25519", "film.partial", "pins/x", "data/00000.json"]
    planted(home, *files)
    before = time.time() - 2 * ABANDONED
    os.utime(f"{home.url}/film.partial", (before, before))
    home.write_bytes("runs/gone/settings.json", b"x")
    home.write_bytes("champions/x", b"x")
    assert [each.path for each in collected(home).garbage] == ["runs/gone"]
    assert all(Path(home.url, path).exists() for path in files)


def test_what_another_program_adds_before_the_deletion_stays(store: Store) -> None:
    for path in ("runs/gone/settings.json", "runs/gone/select/00000.json"):
        os.utime(f"{store.url}/{path}", (OLD, OLD))
    found = find_garbage(store, RetentionSettings(**RETENTION), time.time() + 400 * DAY)
    planted(store, "runs/gone/late/events")
    for garbage in found.garbage:
        delete_own(store, garbage.path)
    assert store.list("runs/gone") == ["late"]


def test_a_folder_that_cannot_be_read_stops_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("runs/locked/settings.json", "checkpoints/night-0123abcd-aaaaaaaa/weights"):
        store.write_bytes(path, b"x")
    usage: Callable[[Store, str], Usage] = Store.usage

    def denied(self: Store, path: str) -> Usage:
        if "locked" in path or "checkpoints" in path:
            raise StoreError(f"{path}: Permission denied")  # root, as tests often are, is not
        return usage(self, path)

    monkeypatch.setattr(Store, "usage", denied)
    publish_squares(store, "next-0123abcd", run="next")
    found = collected(store)
    assert "runs/gone" in {each.path for each in found.garbage}
    assert stays(found) == {"runs/locked": "runs/locked/.segmint: Permission denied"}
    assert store.exists("versions/night-0123abcd")  # the checkpoint may be in training on it


@pytest.mark.parametrize("killed_after", range(5))
def test_a_killed_deletion_is_finished_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    publish_squares(store, "next-0123abcd", run="next")
    shutil.rmtree(f"{store.url}/runs/night")
    steps = iter(range(killed_after))
    delete: Callable[[Store, str], None] = Store.delete

    def stop(self: Store, path: str) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        delete(self, path)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Store, "delete", stop)
        collected(store)
    assert stays(collected(store)) == {}
    assert store.list("runs") == []
    assert store.list("versions") == ["next-0123abcd"]


def test_another_program_s_prefixes_in_a_bucket_stay(bucket: Bucket) -> None:
    store = Store.open(f"{bucket.url}/team", bucket.options)
    for path in (TENSORBOARD, "versions/1.0/app.bin", "runs/gone/tb/events"):
        store.place.put(path, [b"foreign"])
    with pytest.raises(StoreError, match="no store"):
        find_garbage(store, RetentionSettings(**RETENTION), time.time())
    for path in ("runs/gone/settings.json", "runs/gone/select/00000.json"):
        store.write_bytes(path, b"x")
    found = find_garbage(store, RetentionSettings(**RETENTION), time.time() + 400 * DAY)
    for garbage in found.garbage:
        delete_own(store, garbage.path)
    assert store.list("runs/gone") == ["tb"]
    assert {"runs/tensorboard-exp7", "versions/1.0", "runs/gone/tb"} == stays(found).keys()
    assert store.exists(TENSORBOARD) and store.exists("versions/1.0/app.bin")
