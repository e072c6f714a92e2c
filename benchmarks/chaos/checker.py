"""Checks the content of a bucket, given as files, without the code that wrote it.

Samples are read with plain zarr and pyarrow and compared, id by id and byte by byte, with those of
an undisturbed bucket. A version is a folder with a manifest; the manifest, the log of publications
and every file must agree.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zarr

__all__ = ["Findings", "check"]

_OF_TIME = ("created", "seconds", "seal")  # keys whose values differ between two equal runs
CHAMPIONS = "champions/*.json"  # the log of champions; the last entry is the champion
_Samples = dict[str, str]  # SHA-256 of all arrays of a sample, by its id


@dataclass
class Findings:
    """Descriptions of what is wrong, by kind."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)  # published in part

    @property
    def none(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.corrupt or self.partial)


def check(root: Path, undisturbed: Path, without: frozenset[int] = frozenset()) -> Findings:
    """Compare the store in `root` with an undisturbed one.

    A version that lacks the shards `without` may exist beside the whole version, or instead of it.
    """
    found = Findings()
    whole = _all_samples(undisturbed, found)
    wanted = _shards(undisturbed)
    versions = {
        path.parent.name: _unsealed(path) for path in sorted(root.glob("versions/*/manifest.json"))
    }
    for version, manifest in versions.items():
        if manifest is None:
            found.partial.append(f"{version}: its manifest is not what was written")
            continue
        left_out = set(manifest["meta"].get("without", []))
        expected = {name: value for name, value in whole.items() if wanted[name] not in left_out}
        if not left_out <= without:
            found.lost.append(f"{version} lacks shards {sorted(left_out - without)}")
        _check_version(root / "versions" / version, manifest, expected, found)
    if not any(versions.values()):
        found.lost += [f"{name}: no version is published" for name in whole]
    _check_log(root, versions, found)
    _check_shards(root, undisturbed, without, found)
    if any(undisturbed.glob(CHAMPIONS)):
        _check_champion(root, found)
    return found


def _check_version(
    folder: Path, manifest: dict[str, Any], expected: _Samples, found: Findings
) -> None:
    """Check that a version has the files of its manifest, and the expected samples."""
    present: Counter[str] = Counter()
    for shard, entry in manifest["shards"].items():
        path = folder / "data" / shard
        present.update(_check_published(path, folder.name, entry, expected, found))
    found.lost += [f"{folder.name}: {name}" for name in expected if name not in present]
    found.doubled += [
        f"{folder.name}: {name} exists {times} times"
        for name, times in present.items()
        if times > 1
    ]
    found.corrupt += [
        f"{folder.name}: {name} is no expected sample" for name in present if name not in expected
    ]
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.exists():
            found.partial.append(f"{folder.name}: {file.name} is missing")
        elif _sha256(file.read_bytes()) != entry["sha256"]:
            found.corrupt.append(f"{folder.name}: {file.name} is not what was published")


def _check_published(
    path: Path, version: str, entry: dict[str, Any], expected: _Samples, found: Findings
) -> list[str]:
    """Check a published shard against its manifest entry and expected samples; return its ids."""
    shard = path.name
    marker = _unsealed(_beside(path, ".json"))
    if marker is None:
        found.partial.append(f"{version}: shard {shard} has no intact marker")
        return []
    digest = _sha256(_sealed({**marker, "seconds": 0.0}))
    if digest != entry["sha256"] or len(marker["ids"]) != entry["samples"]:
        found.corrupt.append(f"{version}: the marker of {shard} is not the one that was published")
    missing = [suffix for suffix in marker["files"] if not _beside(path, suffix).exists()]
    found.partial += [f"{version}: {shard}{suffix} is missing" for suffix in missing]
    if missing:
        return []
    found.corrupt += [f"{version}: {problem}" for problem in _check_files(path, marker)]
    found.corrupt += [
        f"{version}: {name} is not the sample that it should be"
        for name, value in _samples(path, found).items()
        if name in expected and value != expected[name]
    ]
    return _ids(path)


def _check_log(root: Path, versions: dict[str, Any], found: Findings) -> None:
    """Check that versions are numbered 1, 2, … and that the log of publications agrees."""
    entries = {int(path.stem): _unsealed(path) for path in root.glob("publications/*.json")}
    numbers = {manifest["number"]: version for version, manifest in versions.items() if manifest}
    for number, entry in sorted(entries.items()):
        version = entry and entry["version"]
        if entry is None or numbers.get(number) != version:
            found.partial.append(f"publication {number}: no such manifest of {version}")
            continue
        manifest = root / "versions" / entry["version"] / "manifest.json"
        if _sha256(manifest.read_bytes()) != entry["sha256"]:
            found.corrupt.append(f"publication {number}: the manifest of {version} is another one")
    found.partial += [
        f"{version} is no publication"
        for number, version in numbers.items()
        if number not in entries
    ]
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        found.doubled.append(f"publications are numbered {sorted(numbers)}")


def _check_shards(root: Path, undisturbed: Path, without: frozenset[int], found: Findings) -> None:
    """Check that the run's stages left what those of the undisturbed run left."""
    for marker in sorted(undisturbed.glob("runs/*/*/*.json")):
        path = marker.relative_to(undisturbed)
        ours, theirs = _unsealed(root / path), _unsealed(marker)
        if ours is None:
            if int(marker.stem) not in without:
                found.lost.append(f"{path}: the shard was not finished")
            continue
        if theirs is not None and _timeless(ours) != _timeless(theirs):
            found.corrupt.append(f"{path} is the marker of another shard")
        found.corrupt += _check_files((root / path).with_suffix(""), ours)


def _check_files(path: Path, marker: dict[str, Any]) -> Iterator[str]:
    """Yield the files whose size or checksum differs from the marker's.

    An array's object is checked when it is read, by its CRC32C.
    """
    objects = {
        f".zarr/{name}/c" + "/0" * len(field["shape"]) for name, field in marker["fields"].items()
    }
    for suffix, entry in marker["files"].items():
        file = _beside(path, suffix)
        if not file.exists():
            yield f"{path.name}{suffix} is missing"
        elif file.stat().st_size != entry["size"]:
            yield f"{path.name}{suffix} has {file.stat().st_size} bytes of {entry['size']}"
        elif suffix not in objects and _sha256(file.read_bytes()) != entry["sha256"]:
            yield f"{path.name}{suffix} is not what was written"


def _check_champion(root: Path, found: Findings) -> None:
    """Check that the champion is an existing checkpoint and that all checkpoints are intact."""
    checkpoints = sorted(path.parent.name for path in root.glob("checkpoints/*/meta.json"))
    champion = max(root.glob(CHAMPIONS), default=None)
    if not champion or json.loads(champion.read_bytes())["checkpoint"] not in checkpoints:
        found.lost.append(f"the champion; checkpoints are {checkpoints}")
    for name in checkpoints:
        meta = json.loads((root / "checkpoints" / name / "meta.json").read_bytes())
        for file, checksum in meta["files"].items():
            path = root / "checkpoints" / name / file
            if not path.exists() or _sha256(path.read_bytes()) != checksum:
                found.corrupt.append(f"checkpoint {name}: {file} is not what was written")


def _all_samples(root: Path, found: Findings) -> _Samples:
    """Return the samples of all versions."""
    samples: _Samples = {}
    for path in sorted(root.glob("versions/*/data/*.json")):
        samples.update(_samples(path.with_suffix(""), found))
    return samples


def _shards(root: Path) -> dict[str, int]:
    """Return the shard of each planned sample."""
    (plan,) = root.glob("runs/*/plan.parquet")
    columns = pq.read_table(plan, columns=["id", "shard"]).to_pydict()
    return dict(zip(columns["id"], columns["shard"], strict=True))


def _ids(path: Path) -> list[str]:
    ids: list[str] = pq.read_table(_beside(path, ".parquet"), columns=["id"])["id"].to_pylist()
    return ids


def _samples(path: Path, found: Findings) -> _Samples:
    """Return the digest of each sample of a shard; a shard that cannot be read is a finding."""
    name = f"{path.parent.parent.name}/{path.name}"
    try:
        ids = _ids(path)
        group = zarr.open_group(str(_beside(path, ".zarr")), mode="r")
        arrays = {name: np.asarray(array[:]) for name, array in sorted(group.arrays())}
    except Exception as error:  # damage leads zarr and its codecs to errors of every kind
        found.corrupt.append(f"{name}: {type(error).__name__}: {error}")
        return {}
    if wrong := {name: len(array) for name, array in arrays.items() if len(array) != len(ids)}:
        found.corrupt.append(f"{name} has {len(ids)} ids, but {wrong}")
        return {}
    samples = {}
    for row, sample in enumerate(ids):
        fields = (field.encode() + array[row].tobytes() for field, array in arrays.items())
        samples[sample] = _sha256(b"".join(fields))
    return samples


def _beside(path: Path, suffix: str) -> Path:
    """Return a file of the shard at `path`."""
    return Path(f"{path}{suffix}")


def _unsealed(path: Path) -> dict[str, Any] | None:
    """Return the JSON of a file whose last key is the SHA-256 of all before it.

    None if the file does not exist or its seal is wrong.
    """
    data = path.read_bytes() if path.exists() else b""
    body, mark, seal = data.rpartition(b', "seal": "')
    if not mark or _sha256(body).encode() + b'"}' != seal:
        return None
    value: dict[str, Any] = json.loads(body + b"}")
    return value


def _sealed(value: dict[str, Any]) -> bytes:
    body = json.dumps(value, sort_keys=True, ensure_ascii=False)[:-1].encode()
    return body + b', "seal": "%s"}' % _sha256(body).encode()


def _timeless(value: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name not in _OF_TIME}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
