"""The identity of a run: a hash of the settings that can change a sample.

Two runs with equal identity make equal samples, so a run may go on under any settings that have its
identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.sources import SettingsError
from infra.vocabulary import Vocabulary

__all__ = ["EXCLUDED", "INCLUDED", "differences", "hash_samples", "in_identity", "sample_settings"]

# Settings and sections that can change a sample, and by content `vocabulary` and `classes`. The
# others (name, store, compute, train, evaluate, promote, compare, publish, retention, alarm, watch)
# cannot.
INCLUDED = {"seed", "plan", "generator", "refine", "compose", "select"}
_BY_CONTENT = {"vocabulary", "classes"}
# Fields of these sections that cannot change a sample.
EXCLUDED = {"plan": {"shard_size"}, "generator": {"batch_size", "device"}}
# Fields that are younger than runs in users' stores, with the value that makes the samples of those
# runs. At this value they are left out, so those runs keep their identity.
_ADDED_SINCE: dict[str, dict[str, Any]] = {
    "generator": {
        "attention": "phrases",
        "labels": None,
        "labels_digest": None,
        "layouts": "given",
    },
    "plan": {"backgrounds": None, "counts": None, "sizes": None, "subclasses": None},
    "refine": {"labellers": []},
}


def sample_settings(dumped: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the settings that can change a sample as JSON values.

    `dumped` are the settings as JSON values, restricted to `INCLUDED` without `EXCLUDED`.
    Vocabulary and captions are represented by their content, not by their names. Raises
    `SettingsError` for captions that cannot be read.
    """
    plan = dumped["plan"] | {"captions": _file_digest(dumped["plan"]["captions"])}
    samples = {**dumped, "plan": plan, "vocabulary": vocabulary.model_dump(mode="json")}
    for section, added in _ADDED_SINCE.items():
        samples[section] = {
            name: value
            for name, value in samples[section].items()
            if name not in added or value != added[name]
        }
    return samples


def hash_samples(samples: Mapping[str, Any]) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of `sample_settings`."""
    canonical = json.dumps(samples, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def in_identity(field: str) -> bool:
    """Whether a field, such as `plan.images`, is part of a run's identity."""
    section, _, name = field.partition(".")
    if section in _BY_CONTENT:
        return True
    return section in INCLUDED and name not in EXCLUDED.get(section, ())


def _file_digest(captions: str | None) -> str | None:
    if captions is None:
        return None
    try:
        return hashlib.sha256(Path(captions).read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError(
            f"cannot read plan.captions {captions!r} ({error.strerror}); "
            "give a text file with one caption per line, or leave the field out"
        ) from None


def differences(stored: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two results of `sample_settings`, one text per field."""
    if path == "vocabulary":
        if stored != ours:
            yield "vocabulary has other content"
    elif isinstance(stored, Mapping) and isinstance(ours, Mapping):
        for name in sorted(stored.keys() | ours.keys()):
            yield from differences(stored.get(name), ours.get(name), f"{path}.{name}".lstrip("."))
    elif stored != ours:
        yield f"{path} was {stored!r}, is {ours!r}"
