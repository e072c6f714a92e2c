"""A store: names, markers, shard objects and manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch

from infra.store import (
    CorruptShardError,
    MissingError,
    ShardReader,
    Store,
    StoreError,
    read_shard,
    read_version,
)
from infra.store.layout import check
from infra.store.seal import seal, seal_tensors, unseal
from tasks.refine.affinity import read_affinity
from tasks.report.stored_run import read_stored_run
from tasks.schemas import origin_of
from tasks.train.checkpoints import read_meta
from testbed.inputs import small_shard, small_version
from tests.malformed import DEEP, Case, Cases, file

MARKER = "runs/nightly/refine/00000"


def store_of(folder: Path) -> Store:
    return Store.open(str(folder / "store"))


def names() -> Cases:
    bad = {
        "parent": "../x",
        "parents": "../../etc",
        "absolute": "/etc/passwd",
        "below": "a/b",
        "empty": "",
        "dot": ".",
        "dots": "..",
        "NUL": "a\0",
        "line break": "a\nb",
        "escape": "a\x1b[2J",
        "backslash": "a\\b",
        "space": "a b",
        "shell": "a;reboot",
        "substitution": "$(reboot)",
        "option": "-rf",
        "hidden": ".a",
        "turned writing": "a\u202eb",
        "long": "a" * 256,
        "other letters": "\u0430",
    }
    readers: dict[str, Callable[[Store, str], object]] = {
        "version": read_version,
        "checkpoint": read_meta,
        "run": read_stored_run,
    }
    for name, text in bad.items():
        for what, read in readers.items():
            yield (
                f"name of a {what}: {name}",
                Case(
                    lambda d, r=read, t=text: r(store_of(d), t), StoreError, f"{what} .* is no name"
                ),
            )
    paths = {
        "parent": "runs/../../x",
        "absolute": "/x",
        "NUL": "runs/a\0",
        "line break": "runs/a\nb",
        "long": "runs/" + "a" * 256,
        "empty part": "runs//x",
        "dot": "runs/./x",
    }
    for name, path in paths.items():
        yield f"path: {name}", Case(lambda d, p=path: store_of(d).read_bytes(p), StoreError, "path")
        yield (
            f"path to delete: {name}",
            Case(lambda d, p=path: store_of(d).delete(p), StoreError, "path"),
        )
    urls = {
        "NUL": "out\0",
        "line break": "s3://bucket\n",
        "unknown protocol": "evil://x",
        "no bucket": "s3://",
        "credentials": "s3://me:secret@bucket",
        "chain": "simplecache::s3://b",
    }
    for name, url in urls.items():
        yield f"store url: {name}", Case(lambda d, u=url: Store.open(u), StoreError, "store url")


def shard(store: Store, path: str = MARKER) -> dict[str, Any]:
    """Write a shard and return its marker's content."""
    small_shard(store, path)
    return unseal(store.read_bytes(f"{path}.json"))


def markers() -> Cases:
    def attempt(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        store = store_of(folder)
        value = shard(store)
        change(value)
        store.write_bytes(f"{MARKER}.json", seal(value))
        ShardReader(store, MARKER)

    suffix = ".zarr/label/c/0/0/0"
    changes: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
        "no ids": (lambda v: v.pop("ids"), "ids"),
        "ids that are text": (lambda v: v.update(ids="abc"), "ids"),
        "id that is a number": (lambda v: v.update(ids=[1, "b", "c"]), r"ids\.0"),
        "id twice": (lambda v: v.update(ids=["a", "a", "c"]), "id"),
        "one id more": (lambda v: v["ids"].append("d"), "3 samples.* 4 ids"),
        "no fields": (lambda v: v.pop("fields"), "fields"),
        "fields that are a list": (lambda v: v.update(fields=[]), "fields"),
        "2^40 samples": (lambda v: v["fields"]["label"].update(shape=[1 << 40, 16, 16]), "label"),
        "samples of 2^40 pixels": (
            lambda v: v["fields"]["label"].update(shape=[3, 1 << 20, 1 << 20]),
            "stored cannot hold",
        ),
        "images of 2^40 pixels": (
            lambda v: v["fields"]["image"].update(shape=[3, 1 << 20, 1 << 20, 3]),
            "stored cannot hold",
        ),
        "shape that overflows": (
            lambda v: v["fields"]["label"].update(shape=[3, 1 << 62, 1 << 62]),
            "stored cannot hold",
        ),
        "other shape": (
            lambda v: v["fields"]["image"].update(shape=[3, 16, 8, 3]),
            "stored cannot hold",
        ),
        "negative shape": (lambda v: v["fields"]["label"].update(shape=[3, -16, 16]), r"shape\.1"),
        "no shape": (lambda v: v["fields"]["label"].update(shape=[]), "shape"),
        "shape of text": (lambda v: v["fields"]["label"].update(shape=["3", "16"]), r"shape\.0"),
        "shape of fractions": (lambda v: v["fields"]["label"].update(shape=[3, 1.5]), r"shape\.1"),
        "objects for a dtype": (
            lambda v: v["fields"]["label"].update(dtype="object"),
            "dtype 'object'",
        ),
        "records for a dtype": (lambda v: v["fields"]["label"].update(dtype="O,O"), "dtype"),
        "long text for a dtype": (
            lambda v: v["fields"]["label"].update(dtype="S999999999"),
            "dtype",
        ),
        "unknown codec": (lambda v: v["fields"]["label"].update(codec="pickle"), "codec"),
        "compressed that is not": (
            lambda v: v["fields"]["label"].update(codec="raw"),
            "stored cannot hold",
        ),
        "no codec": (lambda v: v["fields"]["label"].pop("codec"), "codec"),
        "field that leads out": (
            lambda v: v["fields"].update({"../../x": v["fields"]["label"]}),
            "x' is no plain word",
        ),
        "field that is absolute": (
            lambda v: v["fields"].update({"/etc": v["fields"]["label"]}),
            "is no plain word",
        ),
        "file that leads out": (
            lambda v: v["files"].update({"/../../../champion.json": v["files"][".parquet"]}),
            "do not fit its fields",
        ),
        "file that is gone": (lambda v: v["files"].pop(".parquet"), "do not fit its fields"),
        "no files": (lambda v: v.update(files={}), "do not fit its fields"),
        "negative size": (lambda v: v["files"][suffix].update(size=-1), "size"),
        "size of text": (lambda v: v["files"][suffix].update(size="9"), "size"),
        "size of 2^60": (
            lambda v: v["files"][".zarr/image/c/0/0/0/0"].update(size=1 << 60),
            "cannot hold",
        ),
        "true for a size": (lambda v: v["files"][suffix].update(size=True), "size"),
        "checksum that is none": (lambda v: v["files"][suffix].update(sha256="../x"), "sha256"),
        "checks cut off": (lambda v: v["checks"].update(label="00"), "checks"),
        "checks that are none": (lambda v: v["checks"].update(label="zz" * 12), "checks"),
        "checks of no field": (lambda v: v["checks"].update(depth="00" * 12), "do not fit its"),
        "checks that are a number": (lambda v: v["checks"].update(label=1), r"checks\.label"),
        "negative seconds": (lambda v: v.update(seconds=-1), "seconds"),
        "seconds of text": (lambda v: v.update(seconds="soon"), "seconds"),
        "no statistics": (lambda v: v.pop("stats"), "stats"),
        "statistics that are a list": (lambda v: v.update(stats=[]), "stats"),
    }
    yield (
        "marker: file of 2^64 bytes",
        Case(
            lambda d: attempt(d, lambda v: v["files"][suffix].update(size=1 << 64)),
            CorruptShardError,
            "label/c/0/0/0 ends before byte 18446744073709551616; delete the shard's marker",
        ),
    )
    for name, (change, words) in changes.items():
        yield (
            f"marker: {name}",
            Case(
                lambda d, c=change: attempt(d, c),
                MissingError,
                f"00000 is no finished shard.*{words}",
            ),
        )
    for name, body in sealed_texts().items():
        yield (
            f"marker: {name}",
            Case(
                lambda d, b=body: read_raw(
                    store_of(d), f"{MARKER}.json", b, lambda s: ShardReader(s, MARKER)
                ),
                MissingError,
                "00000 is no finished shard",
            ),
        )


def sealed_texts() -> dict[str, bytes]:
    """Return texts that are no valid marker, most with a correct seal."""
    bodies = {
        "deep": b'{"ids": ' + b"[" * DEEP,
        "key twice": b'{"ids": [], "ids": []',
        "NaN": b'{"seconds": NaN',
        "overflow": b'{"seconds": 1e999',
        "not UTF-8": b'{"ids": "\xff"',
        "list": b"[1",
        "empty table": b'{"a": 1, "format": 1',
        "seal twice": b'{"seal": 1',
    }
    sealed = {f"sealed {name}": resealed(body) for name, body in bodies.items()}
    return sealed | {
        "empty": b"",
        "text": b"hello",
        "wrong seal": b'{"a": 1, "seal": "%s"}' % (b"0" * 64),
        "NUL": b"\0" * 200,
    }


def resealed(body: bytes) -> bytes:
    from infra.store.seal import _tail

    return body + _tail(body)


def read_raw(store: Store, path: str, content: bytes, read: Callable[[Store], object]) -> object:
    store.write_bytes(path, content)
    return read(store)


def published(store: Store) -> dict[str, Any]:
    """Publish a version and return its manifest's content."""
    small_version(store)
    return unseal(store.read_bytes("versions/v1/manifest.json"))


def with_manifest(
    folder: Path, change: Callable[[dict[str, Any]], Any], read: Callable[[Store], object]
) -> object:
    store = store_of(folder)
    value = published(store)
    change(value)
    file(Path(store.url, "versions/v1/manifest.json"), seal(value))
    return read(store)


def manifests() -> Cases:
    digest = {"samples": 3, "sha256": "0" * 64}
    changes: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
        "no shards": (lambda v: v.pop("shards"), "shards"),
        "shards that are a list": (lambda v: v.update(shards=[]), "shards"),
        "shard that leads out": (lambda v: v["shards"].update({"../../x": digest}), "shards"),
        "shard that is absolute": (lambda v: v["shards"].update({"/x": digest}), "shards"),
        "shard with an escape": (lambda v: v["shards"].update({"\x1b[2J": digest}), "shards"),
        "2^40 samples below nothing": (
            lambda v: v["shards"]["00000"].update(samples=-(1 << 40)),
            "samples",
        ),
        "samples of text": (lambda v: v["shards"]["00000"].update(samples="3"), "samples"),
        "no checksum": (lambda v: v["shards"]["00000"].pop("sha256"), "sha256"),
        "checksum that is none": (lambda v: v["shards"]["00000"].update(sha256="x"), "sha256"),
        "file that leads out": (
            lambda v: v["files"].update({"../champion.json": {"size": 1, "sha256": "0" * 64}}),
            "files",
        ),
        "file of negative size": (
            lambda v: next(iter(v["files"].values())).update(size=-1),
            "size",
        ),
        "negative number": (lambda v: v.update(number=-1), "number"),
        "number of text": (lambda v: v.update(number="1"), "number"),
        "nothing in it": (lambda v: v.update(shards={}), "shards"),
        "other version": (lambda v: v.update(version="v2"), "version 'v2'"),
        "version that leads out": (lambda v: v.update(version="../../x"), "version"),
        "date that is none": (lambda v: v.update(created="yesterday"), "created"),
        "date that is a number": (lambda v: v.update(created=1), "created"),
        "no meta": (lambda v: v.pop("meta"), "meta"),
        "meta that is text": (lambda v: v.update(meta="x"), "meta"),
    }
    for name, (change, words) in changes.items():
        yield (
            f"manifest: {name}",
            Case(
                lambda d, c=change: with_manifest(d, c, lambda s: read_version(s, "v1")),
                StoreError,
                f"v1/manifest.json.*{words}",
            ),
        )
    for name, body in sealed_texts().items():
        yield (
            f"manifest: {name}",
            Case(
                lambda d, b=body: read_raw(
                    store_of(d), "versions/v1/manifest.json", b, lambda s: read_version(s, "v1")
                ),
                StoreError,
                r"v1/manifest\.json",
            ),
        )
    origins: dict[str, Any] = {
        "no run": {"classes": {}},
        "run that leads out": {"run": "../x", "classes": {}},
        "classes that are a list": {"run": "a", "classes": []},
        "class id of 2^40": {"run": "a", "classes": {"car": 1 << 40}},
        "class id of the unsure": {"run": "a", "classes": {"car": 255}},
        "negative class id": {"run": "a", "classes": {"car": -1}},
        "class id of text": {"run": "a", "classes": {"car": "x"}},
    }
    for name, meta in origins.items():
        yield (
            f"meta: {name}",
            Case(
                lambda d, m=meta: with_manifest(
                    d, lambda v: v.update(meta=m), lambda s: origin_of(read_version(s, "v1"))
                ),
                StoreError,
                "'v1': meta",
            ),
        )


def objects() -> Cases:
    """Yield shard objects with a wrong index or wrong frames, and correct checksums."""

    def attempt(
        folder: Path, field: str, change: Callable[[np.ndarray, bytes], tuple[np.ndarray, bytes]]
    ) -> object:
        store = store_of(folder)
        value = shard(store)
        [suffix] = [name for name in value["files"] if name.startswith(f".zarr/{field}/c/")]
        data = store.read_bytes(MARKER + suffix)
        index, body = np.frombuffer(data[-52:-4], "<u8").reshape(3, 2).copy(), data[:-52]
        index, body = change(index, body)
        text = index.astype("<u8").tobytes()
        store.write_bytes(MARKER + suffix, body + text + check(text))
        value["files"][suffix]["size"] = len(body) + 52
        value["checks"][field] = b"".join(check(body[a : a + n]) for a, n in index.tolist()).hex()
        store.write_bytes(f"{MARKER}.json", seal(value))
        return read_shard(store, MARKER)

    def frames(*chunks: bytes) -> tuple[np.ndarray, bytes]:
        lengths = np.array([len(chunk) for chunk in chunks])
        return np.stack([np.cumsum(lengths) - lengths, lengths], 1), b"".join(chunks)

    def shrunk(size: int) -> bytes:
        frame: bytes = pa.Codec("zstd", 3).compress(b"\0" * size, asbytes=True)
        return frame

    indices: dict[str, Callable[[np.ndarray, bytes], tuple[np.ndarray, bytes]]] = {
        "length of 2^63": lambda i, b: (np.array([[0, 1 << 63], i[1], i[2]], np.uint64), b),
        "start of 2^63": lambda i, b: (np.array([[1 << 63, i[0, 1]], i[1], i[2]], np.uint64), b),
        "chunks that overlap": lambda i, b: (np.stack([i[0], i[0], i[2]]), b),
        "chunks out of order": lambda i, b: (i[::-1].copy(), b),
        "never written": lambda i, b: (np.full((3, 2), (1 << 64) - 1, np.uint64), b),
        "bytes between": lambda i, b: (i + np.array([1, 0], np.uint64), b"\0" + b),
        "bytes left over": lambda i, b: (i, b + b"\0"),
    }
    for field in ("label", "image"):
        for name, change in indices.items():
            yield (
                f"index of {field}: {name}",
                Case(
                    lambda d, f=field, c=change: attempt(d, f, c),
                    StoreError,
                    "00000.*(index|cannot hold)",
                ),
            )

    def agreed(folder: Path) -> object:
        """Make a marker with sizes of 2^40 that agree with each other but with no file."""
        store = store_of(folder)
        value = shard(store)
        value["fields"]["image"]["shape"] = [3, 1 << 20, 1 << 20, 3]
        value["files"][".zarr/image/c/0/0/0/0"]["size"] = 9 * (1 << 40) + 52
        store.write_bytes(f"{MARKER}.json", seal(value))
        return read_shard(store, MARKER)

    yield (
        "marker: sizes of 2^40 that agree",
        Case(agreed, CorruptShardError, "image/c/0/0/0/0 ends"),
    )
    bodies = {
        "frame of a gigabyte": (shrunk(1 << 30), shrunk(256), shrunk(256)),
        "frame of one byte more": (shrunk(257), shrunk(256), shrunk(256)),
        "frame of one byte less": (shrunk(255), shrunk(256), shrunk(256)),
        "no frame": (b"hello", shrunk(256), shrunk(256)),
        "empty frame": (b"", shrunk(256), shrunk(256)),
        "cut frame": (shrunk(256)[:-2], shrunk(256), shrunk(256)),
    }
    for name, chunks in bodies.items():
        yield (
            f"zstd: {name}",
            Case(
                lambda d, c=chunks: attempt(d, "label", lambda i, b: frames(*c)),
                CorruptShardError,
                "field 'label'",
            ),
        )
    tensors = safetensors.torch.save({"a": torch.zeros(2)})
    for name, content in {
        "text": b"hello",
        "empty": b"",
        "other network": seal_tensors(tensors),
        "no seal": tensors,
        "seal that is none": safetensors.torch.save({"a": torch.zeros(2)}, {"seal": "x"}),
    }.items():
        yield (
            f"affinity.safetensors: {name}",
            Case(
                lambda d, c=content: read_raw(
                    store_of(d),
                    "runs/nightly/affinity.safetensors",
                    c,
                    lambda s: read_affinity(s, "nightly"),
                ),
                CorruptShardError,
                r"affinity\.safetensors",
            ),
        )


def cases() -> Cases:
    """Yield all cases of this module."""
    yield from names()
    yield from markers()
    yield from manifests()
    yield from objects()
