"""Fuzzed readers of a store's files.

Seals, checksums and sizes are made to fit the input before the reader sees it, because whoever
writes a hostile file computes these as well.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from infra.settings import Settings
from infra.store import (
    ShardReader,
    Store,
    StoreError,
    list_versions,
    read_shard,
    read_version,
)
from infra.store.groups import GroupedTable
from infra.store.layout import check
from infra.store.marker import read_marker
from infra.store.seal import BLANK, FileSum, seal, stamp, unseal
from tasks.plan.rows import PlanError
from tasks.plan.table import COLUMNS, Plan, stored_plan
from tasks.promote.pointer import read_champion
from tasks.report.stored_run import read_stored_run
from tasks.select.ranking import read_ranking
from tasks.train.checkpoints import read_meta
from testbed.fuzzing.target import Target
from testbed.inputs import CHAMPION, META, PLAN, file, small_shard, small_version

__all__ = ["STORED"]

_SHARD = "runs/nightly/refine/00000"
_PLAN = "runs/nightly/plan.parquet"


def _store(folder: Path) -> Store:
    return Store.open(str(folder / "store"))


def _of_store(path: str, read: Callable[[Store], object]) -> Callable[[Path, bytes], object]:
    """Write the input at a path of the store and read it from there."""

    def attempt(folder: Path, data: bytes) -> object:
        store = _store(folder)
        file(folder / f"store/{path}", data)
        return read(store)

    return attempt


def _sealed(path: str, read: Callable[[Store], object]) -> Callable[[Path, bytes], object]:
    """As `_of_store`; the input is JSON without its seal."""
    plain = _of_store(path, read)

    def attempt(folder: Path, data: bytes) -> object:
        body = data[:-1]  # the seal is the last key of the table
        digest = FileSum.of(body).sha256.encode()
        return plain(folder, body + b', "seal": "%s"}' % digest)

    return attempt


def _unsealed(data: bytes) -> bytes:
    """Return a sealed JSON file without its seal."""
    return data[: data.rindex(b', "seal"')] + b"}"


# Records of a store


def _marker(folder: Path) -> Iterable[bytes]:
    store = _store(folder)
    small_shard(store, _SHARD)
    return [_unsealed(store.read_bytes(f"{_SHARD}.json"))]


def _manifest(folder: Path) -> Iterable[bytes]:
    return [_unsealed(small_version(_store(folder)).read_bytes("versions/v1/manifest.json"))]


def _entry(folder: Path) -> Iterable[bytes]:
    store = small_version(_store(folder))
    [path] = [f"publications/{name}" for name in store.list("publications") if "." in name]
    return [_unsealed(store.read_bytes(path))]


def _read_whole(store: Store) -> object:
    read_marker(store, _SHARD)
    return ShardReader(store, _SHARD)


# A field's object: frames, and an index of them


def _object(folder: Path) -> Iterable[bytes]:
    store = _store(folder)
    small_shard(store, _SHARD)
    data = store.read_bytes(_SHARD + _suffix(unseal(store.read_bytes(f"{_SHARD}.json"))))
    shutil.copyfile(folder / "store" / f"{_SHARD}.json", folder / "marker.json")
    return [data[:-4]]


def _suffix(marker: dict[str, Any]) -> str:
    [suffix] = [name for name in marker["files"] if name.startswith(".zarr/label/c/")]
    return str(suffix)


def _read_object(folder: Path, data: bytes) -> object:
    """Read a field whose frames and index are `data`, with sizes and checksums that fit."""
    store = _store(folder)
    marker = unseal((folder / "marker.json").read_bytes())
    index = np.frombuffer(data[-48:].rjust(48, b"\0"), "<u8").reshape(3, 2)
    body = data[:-48]
    frames = [body[min(a, len(body)) :][: min(n, len(body))] for a, n in index.tolist()]
    suffix = _suffix(marker)
    marker["files"][suffix]["size"] = len(body) + 52
    marker["checks"]["label"] = b"".join(map(check, frames)).hex()
    text = index.tobytes()
    file(folder / f"store/{_SHARD}{suffix}", body + text + check(text))
    file(folder / f"store/{_SHARD}.json", seal(marker))
    return read_shard(store, _SHARD)


# Tables


def _table(folder: Path) -> Iterable[bytes]:
    store = _store(folder)
    small_shard(store, _SHARD)
    return [_unstamped(store.read_bytes(f"{_SHARD}.parquet"))]


def _unstamped(data: bytes) -> bytes:
    """Return a table with a blank in place of its seal."""
    metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
    [found] = [value for key, value in metadata.items() if key.endswith(b".seal")]
    before, _, after = data.rpartition(found)
    return before + BLANK + after


def _stamped(read: Callable[[Path, bytes], object]) -> Callable[[Path, bytes], object]:
    """Seal a table as its writer would, then read it."""
    return lambda folder, data: read(folder, stamp(data) if BLANK in data else data)


def _plan(folder: Path) -> Iterable[bytes]:
    return [bytes(stored_plan([pd.DataFrame(PLAN)]))]


def _read_plan(store: Store) -> object:
    GroupedTable(store, _PLAN, {})
    return [*Plan(store, Settings()).columns(list(COLUMNS))]


# Plain JSON of a store

_RANKING = {"bars": {"car": {"score": 0.5, "row": 1}}, "losses": {"1": 0.5}}
_VOCABULARY_OF_A_RUN = {"classes": [{"id": 1, "name": "car", "palette": [0, 0, 0]}]}
_SETTINGS = {"settings": {}, "sample_settings": {"vocabulary": _VOCABULARY_OF_A_RUN}}


def _json(path: str, value: Any, read: Callable[[Store], object]) -> Target:
    text = json.dumps(value).encode()
    return Target(lambda folder: [text], _of_store(path, read), (StoreError,), is_json=True)


STORED: dict[str, Target] = {
    "marker": Target(_marker, _sealed(f"{_SHARD}.json", _read_whole), (StoreError,), is_json=True),
    "manifest": Target(
        _manifest,
        _sealed("versions/v1/manifest.json", lambda store: read_version(store, "v1")),
        (StoreError,),
        is_json=True,
    ),
    "publication": Target(
        _entry, _sealed("publications/00000001.json", list_versions), (StoreError,), is_json=True
    ),
    "object": Target(_object, _read_object, (StoreError,)),
    "table": Target(
        _table,
        _stamped(_of_store("x.parquet", lambda store: store.read_table("x.parquet"))),
        (StoreError,),
    ),
    "plan": Target(_plan, _stamped(_of_store(_PLAN, _read_plan)), (StoreError, PlanError)),
    "champion": _json("champions/00000001.json", CHAMPION, read_champion),
    "checkpoint": _json("checkpoints/c/meta.json", META, lambda store: read_meta(store, "c")),
    "ranking": _json(
        "runs/nightly/ranking.json", _RANKING, lambda store: read_ranking(store, "runs/nightly")
    ),
    "run": _json(
        "runs/nightly/settings.json", _SETTINGS, lambda store: read_stored_run(store, "nightly")
    ),
}
