"""Links in a store's folder: nothing is deleted or written through one, and one stops nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import Store, StoreError, read_shard, write_shard
from tasks.gc.collect import Found, collect
from tasks.gc.needed import DAY

OLD = time.time() - 400 * DAY
RETENTION = {"versions": 1, "days": 0, "run_days": 0, "abandoned_days": 30}
REFUSED = r"is a link: a store writes and deletes through no link"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the store that looks like a run of segmint."""
    other = Store.open(str(tmp_path / "outside"))
    other.write_bytes("runs/gone/settings.json", b"x")
    other.write_bytes("runs/gone/select/00000.json", b"x")
    return tmp_path / "outside"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    store.write_bytes("runs/gone/settings.json", b"x")
    store.write_bytes("runs/gone/select/00000.json", b"x")
    return store


def link(store: Store, path: str, to: Path) -> None:
    file = Path(store.url, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(to)


def collected(store: Store) -> Found:
    for folder, folders, names in os.walk(store.url):
        for name in [*folders, *names]:
            os.utime(f"{folder}/{name}", (OLD, OLD), follow_symlinks=False)
    return collect.fn(Settings(store={"url": store.url}, retention=RETENTION))


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("to", ["outside/runs/gone", "missing", "store/runs", "store/runs/linked"])
def test_a_linked_run_is_left_and_the_others_are_collected(
    store: Store, outside: Path, to: str
) -> None:
    before = files(outside)
    link(store, "runs/linked", outside.parent / to)
    found = collected(store)
    assert [each.path for each in found.garbage] == ["runs/gone"]
    assert found.left == [("runs/linked", "it is a link")]
    assert files(outside) == before and Path(store.url, "runs/linked").is_symlink()


def test_links_in_a_run_are_left_or_unlinked_and_never_followed(
    store: Store, outside: Path
) -> None:
    before = files(outside)
    link(store, "runs/gone/refine", outside / "runs/gone/select")
    link(store, "runs/gone/notes", outside)
    link(store, "runs/gone/select/00001.zarr", outside)
    link(store, "runs/gone/report.html", outside / "runs/gone/settings.json")
    found = collected(store)
    assert dict(found.left) == {
        "runs/gone/notes": "segmint gives no such name",
        "runs/gone/refine": "it is a link",
    }
    assert store.list("runs/gone") == ["notes", "refine"]
    assert files(outside) == before


def test_a_store_whose_runs_are_a_link_loses_none_of_them(tmp_path: Path, outside: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.write_bytes("pins/x", b"")
    before = files(outside)
    link(store, "runs", outside / "runs")
    found = collected(store)
    assert found == Found([], [("runs/gone", "it is a link")])  # type: ignore[list-item]
    assert files(outside) == before


@pytest.mark.parametrize("linked", ["runs", "runs/new", "runs/new/select"])
def test_nothing_is_written_or_deleted_through_a_link(
    tmp_path: Path, outside: Path, linked: str
) -> None:
    store = Store.open(str(tmp_path / "store"))
    before = files(outside)
    link(store, linked, outside)
    with pytest.raises(StoreError, match=REFUSED):
        store.write_bytes("runs/new/select/00000.json", b"x")
    with pytest.raises(StoreError, match=REFUSED):
        write_shard(store, "runs/new/select/00000", {"a": np.zeros(1)}, pd.DataFrame({"id": ["x"]}))
    inside = {"runs": "runs/gone", "runs/new": "runs/new/runs", "runs/new/select": f"{linked}/runs"}
    with pytest.raises(StoreError, match=REFUSED):
        store.delete(inside[linked])
    assert files(outside) == before
    store.delete(linked)  # the link itself
    assert files(outside) == before and not Path(store.url, linked).is_symlink()


def test_a_linked_file_is_replaced_and_what_it_led_to_stays(store: Store, outside: Path) -> None:
    secret = outside / "runs/gone/settings.json"
    link(store, "runs/gone/report.html", secret)
    store.write_bytes("runs/gone/report.html", b"page")
    assert secret.read_bytes() == b"x"
    assert Path(store.url, "runs/gone/report.html").read_bytes() == b"page"


def test_the_sweep_of_unfinished_files_follows_no_link(store: Store, outside: Path) -> None:
    name = f".a.{'0' * 16}.partial"
    link(store, f"runs/gone/{name}", outside / "runs/gone/settings.json")
    link(store, f"runs/gone/{name[:-8]}x.partial", outside / "missing")
    store.write_bytes("runs/gone/settings.json", b"y")
    assert (outside / "runs/gone/settings.json").read_bytes() == b"x"


def test_a_link_swapped_in_while_a_file_is_written_is_not_followed(
    store: Store, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(outside)
    fsync = os.fsync

    def swap(descriptor: int) -> None:
        fsync(descriptor)
        Path(store.url, "runs/gone").rename(f"{store.url}/runs/moved")
        Path(store.url, "runs/gone").symlink_to(outside / "runs")

    monkeypatch.setattr(os, "fsync", swap)
    store.write_bytes("runs/gone/select/00001.json", b"secret")
    assert files(outside) == before
    assert Path(store.url, "runs/moved/select/00001.json").read_bytes() == b"secret"


def test_a_store_url_that_is_a_link_is_the_operator_s_choice(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = Store.open(str(tmp_path / "store"))
    write_shard(store, "runs/a/select/00000", {}, pd.DataFrame({"id": ["x"]}))
    assert store.exists("runs/a/select/00000.json")
    store.delete("runs/a")
    assert store.list("runs") == []


def test_data_that_is_linked_into_a_store_is_read(store: Store, tmp_path: Path) -> None:
    other = Store.open(str(tmp_path / "other"))
    write_shard(other, "runs/a/select/00000", {"a": np.ones(1)}, pd.DataFrame({"id": ["x"]}))
    link(store, "runs/a", tmp_path / "other/runs/a")
    assert read_shard(store, "runs/a/select/00000")[0]["a"].tolist() == [1.0]
