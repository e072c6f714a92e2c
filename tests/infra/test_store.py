"""The store's files: whole or absent, and clear errors when the disk refuses them."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from infra.store import MissingError, Store, StoreError
from infra.store.mark import is_marked


def test_what_was_written_is_read_back(any_store: Store) -> None:
    table = pd.DataFrame(
        {"id": ["a", "b"], "classes": [["car"], []], "seed": [2**62, 1], "score": [0.5, np.nan]}
    )
    any_store.write_bytes("notes/a.bin", b"\x00\xff")
    any_store.write_json(
        "notes/b.json", {"iou": np.float32(0.5), "per_class": np.arange(3), "name": "Straße"}
    )
    any_store.write_table("plan.parquet", table)
    assert any_store.read_bytes("notes/a.bin") == b"\x00\xff"
    assert any_store.read_json("notes/b.json") == {
        "iou": 0.5,
        "per_class": [0, 1, 2],
        "name": "Straße",
    }
    pd.testing.assert_frame_equal(any_store.read_table("plan.parquet"), table)
    assert any_store.read_table("plan.parquet")["classes"].tolist() == [["car"], []]


def test_names_directly_below_are_listed_in_order(any_store: Store) -> None:
    for path in (
        "runs/b/settings.json",
        "runs/a/plan.parquet",
        "runs/a/refine/00000.json",
        "champion.json",
    ):
        any_store.write_bytes(path, b"x")
    assert any_store.list() == [".segmint", "champion.json", "runs"]
    assert any_store.list("runs") == ["a", "b"]
    assert any_store.list("runs/a") == [".segmint", "plan.parquet", "refine"]
    assert any_store.list("versions") == []


def test_deleting_takes_everything_below_and_tolerates_nothing(any_store: Store) -> None:
    any_store.write_bytes("runs/a/x/y", b"1")
    any_store.write_bytes("runs/ab", b"2")
    any_store.delete("runs/a")
    any_store.delete("runs/never")
    assert any_store.list("runs") == ["ab"]
    assert not any_store.exists("runs/a")
    assert any_store.exists("runs/ab")


def test_a_store_is_not_deleted_as_a_whole(store: Store) -> None:
    store.write_bytes("runs/a/x", b"1")
    with pytest.raises(StoreError, match="not deleted as a whole"):
        store.delete("")
    assert store.exists("runs/a/x")


def test_what_is_written_into_is_marked_once_before_its_first_file(any_store: Store) -> None:
    any_store.write_bytes("pins/a.json", b"{}")
    assert is_marked(any_store.place) and not is_marked(any_store.place, "pins")
    for path in ("runs/a/x", "versions/v/x", "checkpoints/c/x"):
        any_store.write_bytes(path, b"1")
        folder = path.removesuffix("/x")
        assert is_marked(any_store.place, folder)
        any_store.delete(folder)
        assert not is_marked(any_store.place, folder)
    any_store.write_bytes("runs/a/x", b"1")  # after it was deleted
    assert is_marked(any_store.place, "runs/a")


def test_another_program_s_file_with_the_name_of_the_mark_stays(store: Store) -> None:
    Path(store.url, "runs/a").mkdir(parents=True)
    Path(store.url, "runs/a/.segmint").write_text("notes")
    store.write_bytes("runs/a/x", b"1")
    assert Path(store.url, "runs/a/.segmint").read_text() == "notes"
    assert not is_marked(store.place, "runs/a")


def test_reading_what_is_not_there_says_where_it_looked(any_store: Store) -> None:
    with pytest.raises(MissingError, match=r"runs/none\.json is not there"):
        any_store.read_json("runs/none.json")


def test_a_file_that_is_no_json_or_parquet_is_named(store: Store) -> None:
    store.write_bytes("x", b"{half")
    with pytest.raises(StoreError, match=r"/x is not JSON .*run again"):
        store.read_json("x")
    with pytest.raises(StoreError, match=r"/x is not Parquet .*run again"):
        store.read_table("x")


@pytest.mark.parametrize("path", ["../elsewhere", "/etc/passwd", "runs/../../x"])
def test_no_path_leads_out_of_the_store(store: Store, path: str) -> None:
    with pytest.raises(StoreError, match="leads out of the store"):
        store.write_bytes(path, b"")


def test_a_probe_passes_and_leaves_nothing(any_store: Store) -> None:
    any_store.probe()
    assert any_store.list() == []


def test_a_store_survives_pickling_and_shows_no_secret(store: Store) -> None:
    store.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read_bytes("x") == b"1"
    secret = Store.open("s3://bucket", {"key": "user", "secret": "swordfish"})
    assert "swordfish" not in f"{secret!r} {secret}"
    assert pickle.loads(pickle.dumps(secret)) == secret


def test_a_relative_folder_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open("out/store")
    store.write_bytes("x", b"1")
    monkeypatch.chdir("/")
    assert store.read_bytes("x") == b"1"
    assert Store.open(f"file://{tmp_path}/out/store").read_bytes("x") == b"1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s4://bucket", "unknown protocol 's4'"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("", "names no folder"),
        ("file://", "names no folder"),
        ("s3://user:swordfish@bucket", "give credentials in AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as refused:
        Store.open(url)
    assert "swordfish" not in str(refused.value)


def test_a_reader_never_sees_half_a_file(store: Store) -> None:
    contents = [bytes([number]) * 3_000_000 for number in range(2)]
    store.write_bytes("x", contents[0])
    writer = threading.Thread(
        target=lambda: [cast(Any, store).write_bytes("x", contents[turn % 2]) for turn in range(20)]
    )
    writer.start()
    while writer.is_alive():
        assert store.read_bytes("x") in contents
    writer.join()


def test_many_writers_in_one_folder_do_not_disturb_each_other(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda number: store.write_bytes(f"files/{number}", bytes([number % 256])),
                range(400),
            )
        )
    assert len(store.list("files")) == 400


KILLED = """
import sys
from infra.store import Store
store = Store.open(sys.argv[1])
print(flush=True)
for number in range(10**6):
    store.write_bytes(f"files/{number}", bytes([number % 256]) * 4_000_000)
"""


def test_a_killed_writer_leaves_whole_files_and_its_rest_is_swept(store: Store) -> None:
    partial: list[Path] = []
    while not partial:  # a kill between two files leaves nothing to sweep
        writer = subprocess.Popen([sys.executable, "-c", KILLED, store.url], stdout=subprocess.PIPE)
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(0.2)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        partial = list(Path(store.url, "files").glob(".*"))
    names = store.list("files")
    assert names
    assert not any(name.startswith(".") for name in names)
    for name in names:
        assert store.read_bytes(f"files/{name}") == bytes([int(name) % 256]) * 4_000_000
    two_hours_ago = time.time() - 7200
    os.utime(partial[0], (two_hours_ago, two_hours_ago))
    store.write_bytes("files/next", b"")
    assert not partial[0].exists()


FULL_DISK = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", sys.argv[1]], check=True)
from infra.store import Store, StoreError
store = Store.open(sys.argv[1])
store.probe()
store.write_bytes("finished", b"1")
try:
    store.write_bytes("large", bytes(2_000_000))
except StoreError as error:
    print(error)
print(store.list(), store.read_bytes("finished"))
"""


def test_a_full_disk_is_named_and_what_was_finished_stays(tmp_path: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = [*namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk to fill cannot be mounted on this machine")
    command = [*namespace, sys.executable, "-c", FULL_DISK, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (
        "large: No space left on device: the disk is full; make room or set another store url"
        in output
    )
    assert output.endswith("['.segmint', 'finished'] b'1'\n")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"/sys/segmint.*set another store url"):
        Store.open("/sys/segmint").probe()  # the kernel refuses root as well
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match=r"taken.*a file exists where a folder is needed"):
        Store.open(str(tmp_path / "taken")).probe()


def test_a_table_without_rows_has_columns_of_any_kind(store: Store) -> None:
    store.write_table("plan.parquet", pd.DataFrame({"shard": [], "classes": []}))
    assert store.read_table("plan.parquet", {"shard": "int", "classes": "list[str]"}).empty
