"""Judges what a bucket holds, given as files: knows how it is laid out, but none of the code that
wrote it.

Samples are read with plain zarr and pyarrow and compared, id by id and byte by byte, with those of
a bucket that nothing disturbed. A version is a folder with a manifest; manifest, log of
publications and every file must agree.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zarr

__all__ = ["Findings", "check"]

_OF_TIME = ("created", "seconds", "seal")  # what differs between two nights
_Samples = dict[str, str]  # SHA-256 of all arrays of a sample, by its id


@dataclass
class Findings:
    """What is wrong, in words."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)  # published in part

    @property
    def none(self) -> bool:
        """Whether nothing is."""
        return not (self.lost or self.doubled or self.corrupt or self.partial)


def check(root: Path, undisturbed: Path, without: frozenset[int] = frozenset()) -> Findings:
    """Compare the store in `root` with one in which nothing was disturbed.

    Beside the whole version, or in its place if it is not there, one without these shards is as it
    should be.
    """
    found = Findings()
    whole, wanted = _all_samples(undisturbed, found), _shards(undisturbed)
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
    if (undisturbed / "champion.json").exists():
        _check_champion(root, found)
    return found


def _check_version(
    folder: Path, manifest: dict[str, Any], expected: _Samples, found: Findings
) -> None:
    """A version's files are those that its manifest names, and its samples those that are expected."""
    there: Counter[str] = Counter()
    for shard, told in manifest["shards"].items():
        place = folder / "data" / shard
        marker = _unsealed(_beside(place, ".json"))
        if marker is None:
            found.partial.append(f"{folder.name}: shard {shard} has no marker that is whole")
            continue
        if (
            _sha256(_sealed({**marker, "seconds": 0.0})) != told["sha256"]
            or len(marker["ids"]) != told["samples"]
        ):
            found.corrupt.append(
                f"{folder.name}: the marker of shard {shard} is not the one that was published"
            )
        missing = [suffix for suffix in marker["files"] if not _beside(place, suffix).exists()]
        found.partial += [f"{folder.name}: {shard}{suffix} is missing" for suffix in missing]
        if not missing:
            found.corrupt += [
                f"{folder.name}: {problem}" for problem in _check_files(place, marker)
            ]
            samples = _samples(place, found)
            there.update(list(_ids(place)))
            found.corrupt += [
                f"{folder.name}: {name} is not the sample that it should be"
                for name, value in samples.items()
                if name in expected and value != expected[name]
            ]
    found.lost += [f"{folder.name}: {name}" for name in expected if name not in there]
    found.doubled += [
        f"{folder.name}: {name} is there {times} times"
        for name, times in there.items()
        if times > 1
    ]
    found.corrupt += [
        f"{folder.name}: nobody knows sample {name}" for name in there if name not in expected
    ]
    for name, told in manifest["files"].items():
        file = folder / name
        if not file.exists():
            found.partial.append(f"{folder.name}: {file.name} is missing")
        elif _sha256(file.read_bytes()) != told["sha256"]:
            found.corrupt.append(f"{folder.name}: {file.name} is not what was published")


def _check_log(root: Path, versions: dict[str, Any], found: Findings) -> None:
    """Versions are numbered from 1 on, each once, and the log says of each number what the version
    says.
    """
    entries = {int(path.stem): _unsealed(path) for path in root.glob("publications/*.json")}
    numbers = {manifest["number"]: version for version, manifest in versions.items() if manifest}
    for number, entry in sorted(entries.items()):
        if entry is None or numbers.get(number) != entry["version"]:
            found.partial.append(
                f"publication {number} is of {entry and entry['version']}, which has no such manifest"
            )
        elif (
            _sha256((root / "versions" / entry["version"] / "manifest.json").read_bytes())
            != entry["sha256"]
        ):
            found.corrupt.append(
                f"publication {number}: the manifest of {entry['version']} is another one"
            )
    found.partial += [
        f"{version} is no publication"
        for number, version in numbers.items()
        if number not in entries
    ]
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        found.doubled.append(f"publications are numbered {sorted(numbers)}")


def _check_shards(root: Path, undisturbed: Path, without: frozenset[int], found: Findings) -> None:
    """What the stages of the run have left is what they leave where nothing is disturbed."""
    for marker in sorted(undisturbed.glob("runs/*/*/*.json")):
        path = marker.relative_to(undisturbed)
        ours, theirs = _unsealed(root / path), _unsealed(marker)
        if ours is None:
            if int(marker.stem) not in without:
                found.lost.append(f"{path}: the shard was not finished")
            continue
        if theirs is not None and _timeless(ours) != _timeless(theirs):
            found.corrupt.append(f"{path} tells of another shard")
        found.corrupt += _check_files((root / path).with_suffix(""), ours)


def _check_files(place: Path, marker: dict[str, Any]) -> Iterator[str]:
    """Files whose size or sum is not what the marker says; an array's object is summed as it is
    read, by its CRC32C.
    """
    objects = {
        f".zarr/{name}/c" + "/0" * len(told["shape"]): name
        for name, told in marker["fields"].items()
    }
    for suffix, told in marker["files"].items():
        file = _beside(place, suffix)
        if not file.exists():
            yield f"{place.name}{suffix} is missing"
        elif file.stat().st_size != told["size"]:
            yield f"{place.name}{suffix} has {file.stat().st_size} bytes of {told['size']}"
        elif suffix not in objects and _sha256(file.read_bytes()) != told["sha256"]:
            yield f"{place.name}{suffix} is not what was written"


def _check_champion(root: Path, found: Findings) -> None:
    """There is one checkpoint, whole, and it is the champion."""
    checkpoints = sorted(path.parent.name for path in root.glob("checkpoints/*/meta.json"))
    champion = root / "champion.json"
    if not champion.exists() or json.loads(champion.read_bytes())["checkpoint"] not in checkpoints:
        found.lost.append(f"the champion; there are checkpoints {checkpoints}")
    for name in checkpoints:
        for file, checksum in json.loads((root / "checkpoints" / name / "meta.json").read_bytes())[
            "files"
        ].items():
            path = root / "checkpoints" / name / file
            if not path.exists() or _sha256(path.read_bytes()) != checksum:
                found.corrupt.append(f"checkpoint {name}: {file} is not what was written")


def _all_samples(root: Path, found: Findings) -> _Samples:
    """Those of all versions."""
    samples: _Samples = {}
    for path in sorted(root.glob("versions/*/data/*.json")):
        samples.update(_samples(path.with_suffix(""), found))
    return samples


def _shards(root: Path) -> dict[str, int]:
    """Shard of each sample of the plan."""
    (plan,) = root.glob("runs/*/plan.parquet")
    columns = pq.read_table(plan, columns=["id", "shard"]).to_pydict()
    return dict(zip(columns["id"], columns["shard"], strict=True))


def _ids(place: Path) -> list[str]:
    ids: list[str] = pq.read_table(_beside(place, ".parquet"), columns=["id"])["id"].to_pylist()
    return ids


def _samples(place: Path, found: Findings) -> _Samples:
    """Digest of each sample of a shard; what cannot be read is told of."""
    try:
        ids = _ids(place)
        group = zarr.open_group(str(_beside(place, ".zarr")), mode="r")
        arrays = {name: array[:] for name, array in sorted(group.arrays())}
    except Exception as error:  # damage leads zarr and its codecs to errors of every kind
        found.corrupt.append(
            f"{place.parent.parent.name}/{place.name}: {type(error).__name__}: {error}"
        )
        return {}
    if wrong := {name: len(array) for name, array in arrays.items() if len(array) != len(ids)}:
        found.corrupt.append(
            f"{place.parent.parent.name}/{place.name} has {len(ids)} ids, but {wrong}"
        )
        return {}
    return {
        name: _sha256(
            b"".join(field.encode() + array[row].tobytes() for field, array in arrays.items())
        )
        for row, name in enumerate(ids)
    }


def _beside(place: Path, suffix: str) -> Path:
    """A file of the shard at `place`."""
    return Path(f"{place}{suffix}")


def _unsealed(path: Path) -> dict[str, Any] | None:
    """The JSON of a file whose last key is the SHA-256 of all before it;

    None if it is not there, or not so.
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
