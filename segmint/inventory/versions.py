"""Versions: one published version, its classes, its size, and what it was made from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra.store import Manifest, Store, read_version
from segmint.inventory.faults import Faults
from segmint.inventory.runs import read_settings
from tasks.publish.card import Kept
from tasks.schemas import Origin, origin_of

__all__ = ["VersionSummary", "summarise_version"]

_COLUMNS = {"kind": "str", "classes": "list[str]"}


@dataclass(frozen=True)
class VersionSummary:
    """A published version: counts, size in bytes, classes, and where it comes from.

    `classes` have `name`, `id` and `images`, the number of images that show the class. `lineage` is
    what the manifest and the run's settings say; a run that was deleted leaves gaps in it.
    """

    version: str
    number: int
    created: str
    samples: int
    shards: int
    bytes: int
    digest: str
    kinds: dict[str, int]
    classes: list[dict[str, Any]]
    lineage: dict[str, Any]
    damaged: list[str]


def summarise_version(store: Store, version: str) -> VersionSummary:
    """Return everything about a version that its manifest, tables and run say.

    Raises `MissingError` if it is not published, `StoreError` if its manifest is damaged.
    """
    manifest = read_version(store, version)
    faults = Faults()
    kept = _count(store, manifest, faults)
    origin = faults.attempt(origin_of, manifest)
    classes = [
        {"name": name, "id": number, "images": kept.classes[name]}
        for name, number in sorted((origin.classes if origin else {}).items(), key=lambda it: it[1])
    ]
    return VersionSummary(
        version=version,
        number=manifest.number,
        created=manifest.created,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=store.usage(f"versions/{version}").size,
        digest=manifest.digest,
        kinds=dict(kept.kinds.most_common()),
        classes=classes,
        lineage=_lineage(store, manifest, origin, faults) if origin else {},
        damaged=faults.found,
    )


def _count(store: Store, manifest: Manifest, faults: Faults) -> Kept:
    """Count the samples of all tables that can be read."""

    def of(path: str) -> Kept:
        return Kept.of(store.read_table(f"{path}.parquet", _COLUMNS))

    with ThreadPoolExecutor(store.place.readers) as pool:
        counts = pool.map(lambda path: faults.attempt(of, path), manifest.paths)
        return sum((each for each in counts if each), Kept())


def _lineage(store: Store, manifest: Manifest, origin: Origin, faults: Faults) -> dict[str, Any]:
    """Return run, identity, and what the settings of that run say of seed and generator."""
    lineage = {
        "run": origin.run,
        "identity": origin.identity,
        "planned": manifest.meta.get("planned"),
        "missing_shards": manifest.meta.get("without", []),
        "label_maps": origin.drawn.get("labels"),
        "label_maps_sha256": origin.drawn.get("labels_digest"),
    }
    if not store.exists(f"runs/{origin.run}/settings.json"):
        return {**lineage, "note": "the run was deleted; its settings are not known"}
    record = faults.attempt(read_settings, store, origin.run) or {}
    if record.get("identity") != origin.identity:
        return {**lineage, "note": "the run of that name has other settings now"}
    settings = record.get("settings", {})
    generator = settings.get("generator", {})
    return {
        **lineage,
        "seed": settings.get("seed"),
        "vocabulary": settings.get("vocabulary"),
        "generator": generator.get("path"),
        "weights_sha256": generator.get("weights"),
        "num_inference_steps": generator.get("num_inference_steps"),
        "guidance_scale": generator.get("guidance_scale"),
    }
