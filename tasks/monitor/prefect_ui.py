"""Prefect UI: the progress of a run as artifacts of its flow run, updated in place.

Artifact keys do not depend on the run, so Prefect keeps a history of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from tasks.monitor.totals import Totals

__all__ = ["ProgressArtifacts"]


class _Content(NamedTuple):
    type: str
    data: Any
    description: str


class ProgressArtifacts:
    """The progress artifacts of one flow run."""

    def __init__(self, flow_run: UUID) -> None:
        self._flow_run = flow_run
        self._made: dict[str, tuple[UUID, _Content]] = {}

    def show(self, totals: Totals) -> None:
        """Create or update the artifacts that changed. Raises what Prefect's client raises."""
        with get_client(sync_client=True) as client:
            for key, content in _artifacts(totals):
                if key not in self._made:
                    new = ArtifactCreate(key=key, flow_run_id=self._flow_run, **content._asdict())
                    self._made[key] = client.create_artifact(new).id, content
                    continue
                identity, shown = self._made[key]
                if shown != content:
                    changed = ArtifactUpdate(data=content.data, description=content.description)
                    client.update_artifact(identity, changed)
                    self._made[key] = identity, content


def _artifacts(totals: Totals) -> Iterator[tuple[str, _Content]]:
    for name, stage in totals.stages.items():
        percent = round(100 * stage.share, 1)
        yield f"progress-{name}", _Content("progress", percent, stage.summary)
    rates = [
        _rate(stage, worker, work.units, work.seconds)
        for (stage, worker), work in totals.work.items()
    ]
    if rates:
        about = "Work per stage and worker since this run was started"
        yield "rates", _Content("table", json.dumps(rates), about)
    if totals.resources:
        machines = json.dumps(_machines(totals.resources))
        yield "machines", _Content("table", machines, "Disks and GPUs of the workers")


def _rate(stage: str, worker: str, units: int, seconds: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "worker": worker,
        "done": units,
        "seconds": round(seconds, 1),
        "per second": round(units / seconds, 2) if seconds else None,
    }


def _machines(resources: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return one row per worker, all with the same columns: Prefect shows those of the first."""
    names = dict.fromkeys(name for found in resources.values() for name in found)
    columns = {name: f"{name.removesuffix('_bytes').replace('_', ' ')}, GB" for name in names}
    return [
        {"worker": worker}
        | {column: _gigabytes(found.get(name)) for name, column in columns.items()}
        for worker, found in sorted(resources.items())
    ]


def _gigabytes(count: float | None) -> float | None:
    return None if count is None else round(count / 1e9, 1)
