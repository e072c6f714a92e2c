"""Naming: the name of a checkpoint, and what its meta.json says of where it comes from.

The name of a checkpoint of one version does not depend on that version's digest; meta.json has it,
and `read_meta` compares it. The name of one of several versions depends on all their digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from infra.store import Manifest
from tasks.train.protocols import SYNTHETIC, Protocol
from tasks.train.start import Start
from tasks.train.weighting import UNWEIGHTED, Weighting

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from models.segmenters import TrainingRecipe

__all__ = ["checkpoint_name", "origin_of_checkpoint", "several"]


def checkpoint_name(
    version: str,
    recipe: TrainingRecipe,
    protocol: Protocol = SYNTHETIC,
    *,
    manifests: Sequence[Manifest] = (),
    start: Start | None = None,
    weighting: Weighting = UNWEIGHTED,
) -> str:
    """Return the name of the checkpoint of a version, a recipe, a protocol, a start and weights.

    `manifests` are those of all versions if there are several. Equal arguments give equal names:
    the version, and 8 hex digits of the others' SHA-256.
    """
    made_by: dict[str, Any] = {} if protocol == SYNTHETIC else {"protocol": asdict(protocol)}
    made_by |= several(manifests)
    if start:
        made_by["start"] = start.sha256
    if weighting:
        made_by["weighting"] = asdict(weighting)
    weights = [(file.sha256, file.part) for file in recipe.weights]  # wherever the files lie
    canonical = json.dumps(recipe.identity() | {"weights": weights} | made_by, sort_keys=True)
    return f"{version}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def several(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Return name and digest of several versions as `versions`; nothing for a single one."""
    listed = [{"name": each.version, "digest": each.digest} for each in manifests]
    return {"versions": listed} if len(listed) > 1 else {}


def origin_of_checkpoint(
    name: str,
    manifests: Sequence[Manifest],
    samples: int,
    protocol: Protocol,
    start: Start | None,
    weighting: Weighting = UNWEIGHTED,
) -> dict[str, Any]:
    """Return what a checkpoint's meta.json says of its training data."""
    return {
        "checkpoint": name,
        "version": manifests[0].version,
        "manifest": manifests[0].digest,
        "samples": samples,
        "protocol": asdict(protocol),
        **several(manifests),
        **({"start": asdict(start)} if start else {}),
        **({"weighting": asdict(weighting)} if weighting else {}),
    }
