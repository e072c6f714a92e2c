"""Shards: plain Zarr, marker last, equal bytes for equal samples, damage found on reading."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from zarr.codecs import BytesCodec, ZstdCodec
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from infra.store import (
    CorruptShardError,
    FormatError,
    MissingError,
    ShardReader,
    Store,
    StoreError,
    read_marker,
    read_shard,
    verify_run,
    write_shard,
)
from infra.store.layout import DTYPES
from infra.store.seal import seal, unseal
from tests.infra.conftest import Samples

PATH = "runs/nightly/synthesize/00003"


def files(store: Store, below: str = "") -> dict[str, bytes]:
    root = Path(store.url, below)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def opened(store: Store, path: str) -> Any:
    if "://" not in store.url:
        return zarr.open_group(LocalStore(f"{store.url}/{path}.zarr"), mode="r")
    options = {**store.options, "asynchronous": True}
    return zarr.open_group(
        FsspecStore.from_url(f"{store.url}/{path}.zarr", storage_options=options), mode="r"
    )


def test_a_shard_is_read_back_as_it_was_written(any_store: Store, samples: Samples) -> None:
    arrays, table = samples(7)
    marker = write_shard(any_store, PATH, arrays, table, {"kept": np.int64(5)}, seconds=1.5)
    assert read_marker(any_store, PATH) == marker
    assert (marker.ids, marker.stats, marker.seconds) == (tuple(table["id"]), {"kept": 5}, 1.5)
    found, columns = read_shard(any_store, PATH)
    pd.testing.assert_frame_equal(columns, table)
    assert found.keys() == arrays.keys()
    assert all((found[name] == arrays[name]).all() for name in arrays)
    assert list(read_shard(any_store, PATH, ["label"])[0]) == ["label"]


def test_single_samples_are_read_in_any_order(any_store: Store, samples: Samples) -> None:
    arrays, table = samples(6)
    write_shard(any_store, PATH, arrays, table)
    reader = ShardReader(any_store, PATH)
    assert (len(reader), reader.fields, reader.ids) == (6, ("image", "label"), tuple(table["id"]))
    for index in (5, 0, 3, 3):
        assert (reader.read("label", index) == arrays["label"][index]).all()
        sample = reader.sample(index)
        assert (sample["image"] == arrays["image"][index]).all()
        assert sample["image"].flags.writeable
    with pytest.raises(IndexError, match="sample 6 of 6"):
        reader.read("label", 6)
    with pytest.raises(MissingError, match=r"no field \['depth'\], only image, label"):
        reader.read("depth", 0)


def test_plain_zarr_opens_what_lies_there(any_store: Store, samples: Samples) -> None:
    arrays, table = samples()
    write_shard(any_store, PATH, arrays, table)
    group = opened(any_store, PATH)
    assert sorted(group.array_keys()) == ["image", "label"]
    for name, array in arrays.items():
        assert group[name].chunks == (1, *array.shape[1:])
        assert group[name].shards == array.shape
        assert (group[name][:] == array).all()
        assert (group[name][3] == array[3]).all()


@pytest.mark.parametrize(
    ("dtype", "fill", "codecs"), [("uint8", 255, [ZstdCodec(level=3)]), ("float16", np.nan, [])]
)
def test_the_metadata_is_what_zarr_itself_writes(
    store: Store, dtype: str, fill: float, codecs: list[ZstdCodec]
) -> None:
    values = (
        np.zeros((4, 8, 8), dtype)
        if codecs
        else np.random.default_rng(0).random((4, 8, 8)).astype(dtype)
    )
    write_shard(store, PATH, {"field": values}, pd.DataFrame({"id": list("abcd")}))
    memory = MemoryStore()
    zarr.create_group(memory).create_array(
        "field",
        shape=values.shape,
        chunks=(1, 8, 8),
        shards=values.shape,
        dtype=dtype,
        fill_value=fill,
        serializer=BytesCodec() if dtype == "uint8" else "auto",
        compressors=codecs,
    )
    ours = json.loads(store.read_bytes(f"{PATH}.zarr/field/zarr.json"))
    theirs = json.loads(memory._store_dict["field/zarr.json"].to_bytes())
    del theirs["storage_transformers"]
    assert ours == theirs


def test_the_same_samples_give_the_same_bytes(store: Store, samples: Samples) -> None:
    for run in ("a", "b"):
        write_shard(store, f"runs/{run}/refine/00000", *samples(seed=3))
    assert files(store, "runs/a") == files(store, "runs/b")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4, 5), (3,), (1, 2, 4, 4)])
def test_every_dtype_and_shape_is_kept(store: Store, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    write_shard(
        store, PATH, {"x": values}, pd.DataFrame({"id": [str(row) for row in range(len(values))]})
    )
    found = read_shard(store, PATH)[0]["x"]
    assert found.dtype == values.dtype
    assert (found == values).all()
    assert (ShardReader(store, PATH).read("x", 0) == values[0]).all()
    assert (opened(store, PATH)["x"][:] == values).all()


def test_views_and_foreign_byte_order_are_stored_as_what_they_say(store: Store) -> None:
    values = np.arange(2 * 4 * 6, dtype=">f4").reshape(2, 4, 6)
    write_shard(
        store, PATH, {"x": values.transpose(0, 2, 1)[:, ::2]}, pd.DataFrame({"id": ["a", "b"]})
    )
    assert (read_shard(store, PATH)[0]["x"] == values.transpose(0, 2, 1)[:, ::2]).all()
    assert (opened(store, PATH)["x"][:] == values.transpose(0, 2, 1)[:, ::2]).all()


def test_all_background_is_stored_and_differs_from_never_written(store: Store) -> None:
    write_shard(
        store, PATH, {"label": np.zeros((3, 8, 8), np.uint8)}, pd.DataFrame({"id": list("abc")})
    )
    assert (opened(store, PATH)["label"][:] == 0).all()
    store.delete(f"{PATH}.zarr/label/c")
    assert (opened(store, PATH)["label"][:] == 255).all()


@pytest.mark.parametrize("shape", [(0, 8, 8), (2, 0, 8)])
def test_a_shard_may_hold_nothing(store: Store, shape: tuple[int, ...]) -> None:
    table = pd.DataFrame({"id": [str(row) for row in range(shape[0])]}, dtype="str")
    write_shard(store, PATH, {"attention": np.empty(shape, np.float16)}, table)
    found, columns = read_shard(store, PATH)
    assert found["attention"].shape == shape
    assert found["attention"].dtype == np.float16
    assert len(columns) == shape[0]
    write_shard(store, "runs/nightly/select/00000", {}, table)
    assert read_shard(store, "runs/nightly/select/00000")[0] == {}


@pytest.mark.parametrize(
    ("arrays", "columns", "words"),
    [
        (
            {"x": np.zeros((2, 4))},
            {"id": list("abc")},
            r"field 'x' has shape \(2, 4\), but the table has 3 rows",
        ),
        ({"x": np.array(1.0)}, {"id": ["a"]}, r"field 'x' has shape \(\)"),
        (
            {"x": np.zeros(2, "complex64")},
            {"id": list("ab")},
            "dtype complex64; convert it to one of bool, uint8",
        ),
        ({"x": np.array(["a", "b"])}, {"id": list("ab")}, "field 'x' has dtype"),
        ({"a/b": np.zeros(2)}, {"id": list("ab")}, "field 'a/b' must be a plain word"),
        (
            {"x": np.zeros(3)},
            {"id": list("aba")},
            r"ids must be unique strings; given twice: \['a'\]",
        ),
        ({"x": np.zeros(2)}, {"id": [1, 2]}, "ids must be unique strings"),
        ({"x": np.zeros(2)}, {"row": [1, 2]}, r"no column 'id', only \['row'\]"),
    ],
)
def test_content_that_does_not_fit_is_refused_before_anything_is_written(
    store: Store, arrays: dict[str, np.ndarray], columns: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(StoreError, match=words):
        write_shard(store, PATH, arrays, pd.DataFrame(columns))
    assert store.list() == []


def test_a_finished_shard_is_not_written_again(store: Store, samples: Samples) -> None:
    first = write_shard(store, PATH, *samples(), seconds=1.0)
    times = {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*")}
    assert write_shard(store, PATH, *samples(), seconds=2.0) == first
    assert {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*")} == times


def test_other_content_replaces_all_of_an_unpublished_shard(store: Store, samples: Samples) -> None:
    arrays, table = samples(seed=1)
    write_shard(store, PATH, {**arrays, "depth": np.ones((5, 4, 4), np.float32)}, table)
    arrays, table = samples(seed=2)
    write_shard(store, PATH, arrays, table)
    assert sorted(opened(store, PATH).array_keys()) == ["image", "label"]
    assert (read_shard(store, PATH)[0]["image"] == arrays["image"]).all()


@pytest.mark.parametrize("fault", ["missing", "cut off", "changed"])
def test_a_shard_without_a_valid_marker_was_never_written(
    store: Store, samples: Samples, fault: str
) -> None:
    write_shard(store, PATH, *samples())
    marker = Path(store.url, f"{PATH}.json")
    data = marker.read_bytes()
    if fault == "missing":
        marker.unlink()
    else:
        marker.write_bytes(
            data[:-3] if fault == "cut off" else data.replace(b'"seconds": 0.0', b'"seconds": 9.0')
        )
    assert read_marker(store, PATH) is None
    with pytest.raises(MissingError, match="00003 is no finished shard; run the stage"):
        read_shard(store, PATH)
    write_shard(store, PATH, *samples())
    assert marker.read_bytes() == data


def test_a_shard_of_a_newer_format_is_not_overwritten(store: Store, samples: Samples) -> None:
    write_shard(store, PATH, *samples())
    marker = Path(store.url, f"{PATH}.json")
    marker.write_bytes(seal(unseal(marker.read_bytes()) | {"format": 2}))
    before = files(store)
    for seed in (0, 1):
        with pytest.raises(FormatError, match=r"00003\.json has format 2.*use a newer segmint"):
            write_shard(store, PATH, *samples(seed=seed))
    assert files(store) == before


KILLED = """
import sys
import numpy as np, pandas as pd
from infra.store import Store, write_shard
store = Store.open(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (20, 200, 200, 3), dtype=np.uint8)
table = pd.DataFrame({"id": [str(row) for row in range(20)]})
print(flush=True)
for number in range(10**6):
    arrays = {"image": image, "label": image[..., 0] // 200}
    write_shard(store, f"runs/a/refine/{number:05d}", arrays, table)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_shards_that_are_whole_or_never_written(store: Store) -> None:
    for delay in (0.11, 0.23, 0.37):
        store.delete("runs")
        store.write_json("runs/a/settings.json", {})
        writer = subprocess.Popen([sys.executable, "-c", KILLED, store.url], stdout=subprocess.PIPE)
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        shards = [name[:5] for name in store.list("runs/a/refine") if name.endswith(".json")]
        problems = verify_run(store, "a", {"refine": shards})
        assert all(problem.path == f"runs/a/refine/{len(shards):05d}.json" for problem in problems)


def test_a_flipped_byte_is_found_as_its_sample_is_read(any_store: Store, samples: Samples) -> None:
    arrays, table = samples()
    write_shard(any_store, PATH, arrays, table)
    for field, key in (("image", "c/0/0/0/0"), ("label", "c/0/0/0")):
        data = bytearray(any_store.read_bytes(f"{PATH}.zarr/{field}/{key}"))
        offset, length = np.frombuffer(data[-84:-4], "<u8").reshape(-1, 2)[2]
        data[offset + length // 2] ^= 1
        any_store.write_bytes(f"{PATH}.zarr/{field}/{key}", bytes(data))
        reader = ShardReader(any_store, PATH)
        assert (reader.read(field, 1) == arrays[field][1]).all()
        with pytest.raises(
            CorruptShardError,
            match=rf"sample 2 \(00000002\), field '{field}': its checksum differs",
        ):
            reader.read(field, 2)
        with pytest.raises(CorruptShardError, match="00000002"):
            read_shard(any_store, PATH, [field])


def test_a_cut_or_missing_object_is_found_as_it_is_read(any_store: Store, samples: Samples) -> None:
    write_shard(any_store, PATH, *samples())
    reader = ShardReader(any_store, PATH)
    path = f"{PATH}.zarr/image/c/0/0/0/0"
    any_store.write_bytes(path, any_store.read_bytes(path)[:3000])
    assert reader.read("image", 0).shape == (16, 16, 3)
    for index in (3, 4):  # a range that begins in the object, and one that begins behind its end
        with pytest.raises(CorruptShardError, match="ends"):
            reader.read("image", index)
    with pytest.raises(CorruptShardError, match="ends"):
        ShardReader(any_store, PATH)
    any_store.delete(path)
    with pytest.raises(
        CorruptShardError, match="image/c/0/0/0/0 is not there, although the shard was finished"
    ):
        reader.read("image", 0)


def test_a_damaged_index_is_found_as_the_shard_is_opened(store: Store, samples: Samples) -> None:
    write_shard(store, PATH, *samples())
    path = Path(store.url, f"{PATH}.zarr/label/c/0/0/0")
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        CorruptShardError, match="00003: the index of its chunks is cut off or damaged"
    ):
        ShardReader(store, PATH)
